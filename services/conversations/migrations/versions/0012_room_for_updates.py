"""Leave room in pages for the numbering of events."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Both apply to new rows only. The sequencer finds the time in the row, and changes only the position.
    op.alter_column("events", "numbered_at", server_default=sa.text("clock_timestamp()"))
    op.execute("alter table events set (fillfactor = 50)")


def downgrade() -> None:
    op.execute("alter table events reset (fillfactor)")
    op.alter_column("events", "numbered_at", server_default=None)
