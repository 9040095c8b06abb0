"""Count the items of an order over the limit."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("orders", sa.Column("items_omitted", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("orders", "items_omitted")
