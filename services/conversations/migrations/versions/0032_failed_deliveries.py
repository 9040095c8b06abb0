"""Index failed deliveries of webhooks by time: the state counts those of the last day."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0032"
down_revision: str | None = "0031"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute(
            "create index concurrently if not exists webhook_deliveries_failed_at_idx"
            " on webhook_deliveries (attempted_at) where state = 'failed'"
        )
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    op.drop_index("webhook_deliveries_failed_at_idx", "webhook_deliveries")
