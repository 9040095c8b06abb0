"""Take emails in, and give each email that goes out an address for replies."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NOW = sa.text("clock_timestamp()")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "reply_addresses",
        sa.Column("email_id", sa.Uuid(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("newest_number", sa.Integer(), nullable=False),
        sa.Column("fingerprints", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("email_id", name="reply_addresses_pkey"),
    )
    op.create_table(
        "inbound_emails",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("email_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("read_up_to", sa.Integer(), nullable=False),
        sa.Column("same_as", sa.Text(), nullable=False),
        sa.Column("from_address", sa.Text(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("original", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", TIME, nullable=True),
        sa.Column("next_attempt_at", TIME, server_default=NOW, nullable=False),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("message_number", sa.Integer(), nullable=True),
        sa.Column("received_at", TIME, server_default=NOW, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.CheckConstraint(
            "state in ('received', 'posted', 'held', 'ignored', 'refused')", name="inbound_emails_state_check"
        ),
        sa.PrimaryKeyConstraint("id", name="inbound_emails_pkey"),
        sa.UniqueConstraint("conversation_id", "same_as", name="inbound_emails_conversation_id_same_as_key"),
    )
    op.create_index(
        "inbound_emails_waiting_idx",
        "inbound_emails",
        ["conversation_id", "id"],
        postgresql_where=sa.text("state = 'received'"),
    )
    op.create_index("inbound_emails_state_idx", "inbound_emails", ["state", "id"])
    op.create_index("inbound_emails_user_id_idx", "inbound_emails", ["user_id"])
    op.create_index(
        "inbound_emails_message_id_idx",
        "inbound_emails",
        ["message_id"],
        postgresql_where=sa.text("message_id is not null"),
    )


def downgrade() -> None:
    op.drop_table("inbound_emails")
    op.drop_table("reply_addresses")
