"""Name the message in its event instead of copying it.

Processes of 0.2.0 take such an event for an erased one, so only a log that nobody has written to begins with it. A
later release sets it for all.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0030"
down_revision: str | None = "0029"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("feed", sa.Column("by_reference", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.execute("update feed set by_reference = true where head = 0 and not exists (select from events)")


def downgrade() -> None:
    op.drop_column("feed", "by_reference")
