"""Remember which ids of users the store has merged into others."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0033"
down_revision: str | None = "0032"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Each statement may run again after an interruption.
    op.execute("alter table users add column if not exists merged_into text")
    op.execute("alter table users add column if not exists merged_at timestamp with time zone")
    # Not valid: the rows that are there have no value, and looking at each would hold the lock.
    op.execute(
        "alter table users drop constraint if exists users_merged_check, add constraint users_merged_check"
        " check (merged_into is null or deleted_at is not null) not valid"
    )
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute("alter table users validate constraint users_merged_check")
        op.execute(
            "create index concurrently if not exists users_merged_idx on users (merged_into)"
            " where merged_into is not null"
        )
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    op.drop_index("users_merged_idx", "users")
    op.drop_constraint("users_merged_check", "users")
    op.drop_column("users", "merged_at")
    op.drop_column("users", "merged_into")
