"""Index what belongs to an admin, so that erasing a user reads no whole table."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

INDEXES = {
    "admin_notifications_recipient_idx": "admin_notifications (recipient_id) where recipient_id is not null",
    "admin_reads_admin_idx": "admin_reads (admin_id)",
    "admin_marks_admin_idx": "admin_marks (admin_id)",
}


def upgrade() -> None:
    # Each statement is a transaction of its own, and may run again after an interruption.
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        for name, columns in INDEXES.items():
            op.execute(f"create index concurrently if not exists {name} on {columns}")
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"drop index {name}")
