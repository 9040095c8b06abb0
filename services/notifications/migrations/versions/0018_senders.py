"""Keep what an email that came in becomes, and whose words."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("inbound_emails", sa.Column("kind", sa.Text(), server_default=sa.text("'message'"), nullable=False))
    op.add_column("inbound_emails", sa.Column("posted_by", sa.Text()))
    op.alter_column("inbound_emails", "email_id", nullable=True)
    op.alter_column("inbound_emails", "user_id", nullable=True)
    op.create_index(
        "inbound_emails_held_idx", "inbound_emails", ["from_address", "id"], postgresql_where=sa.text("state = 'held'")
    )
    op.add_column(
        "reply_addresses", sa.Column("as_note", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_index(
        "people_address_idx", "people", [sa.text("lower(email)")], postgresql_where=sa.text("email is not null")
    )


def downgrade() -> None:
    op.drop_index("people_address_idx", "people")
    op.drop_column("reply_addresses", "as_note")
    op.drop_index("inbound_emails_held_idx", "inbound_emails")
    op.execute("delete from inbound_emails where email_id is null or user_id is null")
    op.alter_column("inbound_emails", "user_id", nullable=False)
    op.alter_column("inbound_emails", "email_id", nullable=False)
    op.drop_column("inbound_emails", "posted_by")
    op.drop_column("inbound_emails", "kind")
