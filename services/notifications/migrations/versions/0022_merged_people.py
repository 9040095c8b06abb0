"""Remember which ids of people the store has merged into others."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Each statement may run again after an interruption.
    op.execute("alter table people add column if not exists merged_into text")
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute(
            "create index concurrently if not exists people_merged_idx on people (merged_into)"
            " where merged_into is not null"
        )
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    op.drop_index("people_merged_idx", "people")
    op.drop_column("people", "merged_into")
