"""Index the former states of orders by the order's id: they are few, and admins look for conversations about them."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0038"
down_revision: str | None = "0037"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Each statement is a transaction of its own, and may run again after an interruption.
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute(
            "create index concurrently if not exists orders_former_idx on orders (split_part(id, ' ', 1))"
            " where strpos(id, ' ') > 0"
        )
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    op.drop_index("orders_former_idx", "orders")
