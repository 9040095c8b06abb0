"""Keep what an email that came in becomes, and whose words."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("alter table inbound_emails add column if not exists kind text not null default 'message'")
    op.execute("alter table inbound_emails add column if not exists posted_by text")
    op.alter_column("inbound_emails", "email_id", nullable=True)
    op.alter_column("inbound_emails", "user_id", nullable=True)
    op.execute("alter table reply_addresses add column if not exists as_note boolean not null default false")
    # Each statement is a transaction of its own, and may run again after an interruption.
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute(
            "create index concurrently if not exists inbound_emails_held_idx on inbound_emails (from_address, id)"
            " where state = 'held'"
        )
        op.execute(
            "create index concurrently if not exists people_address_idx on people (lower(email))"
            " where email is not null"
        )
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    op.drop_index("people_address_idx", "people")
    op.drop_column("reply_addresses", "as_note")
    op.drop_index("inbound_emails_held_idx", "inbound_emails")
    op.execute("delete from inbound_emails where email_id is null or user_id is null")
    op.alter_column("inbound_emails", "user_id", nullable=False)
    op.alter_column("inbound_emails", "email_id", nullable=False)
    op.drop_column("inbound_emails", "posted_by")
    op.drop_column("inbound_emails", "kind")
