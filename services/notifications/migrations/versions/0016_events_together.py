"""One event for rows that changed together."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("events", sa.Column("more_ids", sa.ARRAY(sa.Uuid())))


def downgrade() -> None:
    # Their subjects are read from the list of all emails, because the reader has lost its place.
    op.execute("delete from events where more_ids is not null")
    op.drop_column("events", "more_ids")
