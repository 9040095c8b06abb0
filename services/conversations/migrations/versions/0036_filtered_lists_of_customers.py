"""Index customers' conversations with status and flag, so that filtered lists read no rows that do not match."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0036"
down_revision: str | None = "0035"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_ORDER = "user_id, last_activity_at desc, id desc"


def upgrade() -> None:
    # Begins as the index that it replaces, so it serves the processes of the previous version as well.
    _replace("conversations_user_activity_idx", "conversations_user_idx", f"{_ORDER}, status, is_read_by_admin")


def downgrade() -> None:
    _replace("conversations_user_idx", "conversations_user_activity_idx", _ORDER)


def _replace(old: str, new: str, columns: str) -> None:
    # Each statement is a transaction of its own, and may run again after an interruption.
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # both wait for older transactions, and block nobody
        op.execute(f"create index concurrently if not exists {new} on conversations ({columns})")
        op.execute(f"drop index concurrently if exists {old}")
        op.execute(LOCK_TIMEOUT)
