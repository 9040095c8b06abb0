"""Find the mergers of users that are not complete, among many that are."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0035"
down_revision: str | None = "0034"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute(
            "create index concurrently if not exists users_merging_idx on users (id)"
            " where merged_into is not null and merged_at is null"
        )
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    op.drop_index("users_merging_idx", "users")
