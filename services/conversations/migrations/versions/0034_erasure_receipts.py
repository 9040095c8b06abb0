"""Keep receipts of users' erasures: what there was to erase, and who asked for it."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0034"
down_revision: str | None = "0033"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("erasures", sa.Column("counts", JSONB(), nullable=True), if_not_exists=True)
    op.add_column("erasures", sa.Column("asked_by", sa.Text(), nullable=True), if_not_exists=True)


def downgrade() -> None:
    op.drop_column("erasures", "asked_by")
    op.drop_column("erasures", "counts")
