"""Count emails by recipient, for limits."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Emails that were sent before are not counted: the limits apply from now on.
    op.add_column("emails", sa.Column("mailbox", sa.Text(), nullable=True))
    op.add_column("email_tries", sa.Column("mailbox", sa.Text(), nullable=True))
    op.create_index("emails_in_hand_idx", "emails", ["mailbox"], postgresql_where=sa.text("state = 'sending'"))
    op.create_index(
        "emails_held_back_idx",
        "emails",
        ["id"],
        postgresql_where=sa.text("state = 'scheduled' and reason is not null"),
    )
    op.create_index(
        "email_tries_mailbox_idx",
        "email_tries",
        ["mailbox", sa.literal_column("finished_at desc")],
        postgresql_where=sa.text("mailbox is not null"),
    )


def downgrade() -> None:
    op.drop_index("email_tries_mailbox_idx", table_name="email_tries")
    op.drop_index("emails_held_back_idx", table_name="emails")
    op.drop_index("emails_in_hand_idx", table_name="emails")
    op.drop_column("email_tries", "mailbox")
    op.drop_column("emails", "mailbox")
