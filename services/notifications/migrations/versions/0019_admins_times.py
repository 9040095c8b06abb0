"""When admins want emails: quiet hours, and a daily digest."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    for name in ("quiet_start", "quiet_end", "digest_at"):
        op.execute(f"alter table bells add column if not exists {name} time")
    op.execute("alter table email_messages add column if not exists conversation_id uuid")
    # Each statement is a transaction of its own, and may run again after an interruption.
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute(
            "create index concurrently if not exists email_messages_conversation_idx on email_messages"
            " (conversation_id) where conversation_id is not null"
        )
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    op.drop_column("email_messages", "conversation_id")
    for name in ("digest_at", "quiet_end", "quiet_start"):
        op.drop_column("bells", name)
