"""Index the positions of numbered events only: an event without one needs no entry."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Each statement is a transaction of its own, and may run again after an interruption.
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute("drop index concurrently if exists events_position_idx")
        op.create_index(
            "events_position_idx",
            "events",
            ["position"],
            unique=True,
            postgresql_where=sa.text("position is not null"),
            postgresql_concurrently=True,
        )
        op.execute(LOCK_TIMEOUT)
        op.execute("alter table events drop constraint if exists events_position_key")


def downgrade() -> None:
    op.create_unique_constraint("events_position_key", "events", ["position"])
    op.drop_index("events_position_idx", table_name="events")
