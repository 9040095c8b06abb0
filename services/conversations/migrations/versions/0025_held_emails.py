"""Remember the emails to a conversation that are held."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0025"
down_revision: str | None = "0024"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Each statement is a transaction of its own, and may run again after an interruption.
    with op.get_context().autocommit_block():
        op.execute("alter table conversations add column if not exists held_ids uuid[]")
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute(
            "create index concurrently if not exists conversations_held_idx on conversations"
            " (last_activity_at desc, id desc) where held_ids is not null"
        )
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    op.drop_column("conversations", "held_ids")
