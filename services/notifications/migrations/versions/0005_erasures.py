"""Erase in batches, and store the synced role."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NOW = sa.text("clock_timestamp()")
NIL = sa.text("'00000000-0000-0000-0000-000000000000'")


def upgrade() -> None:
    op.add_column("people", sa.Column("role", sa.Text()))
    op.create_table(
        "erasures",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("after", sa.Uuid(), server_default=NIL, nullable=False),
        sa.Column("erased", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("advanced_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="erasures_pkey"),
        sa.UniqueConstraint("conversation_id", name="erasures_conversation_id_key"),
    )
    op.create_index("erasures_user_id_idx", "erasures", ["user_id"])
    # A user's emails are erased in the order of their ids.
    op.drop_index("emails_recipient_idx", table_name="emails")
    op.create_index("emails_recipient_idx", "emails", ["recipient_id", "id"])


def downgrade() -> None:
    op.drop_index("emails_recipient_idx", table_name="emails")
    op.create_index("emails_recipient_idx", "emails", ["recipient_id"])
    op.drop_table("erasures")
    op.drop_column("people", "role")
