"""Remember which admins have not looked at a conversation since they were mentioned or assigned."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision: str = "0023"
down_revision: str | None = "0022"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("conversations", sa.Column("awaited", ARRAY(sa.Text())))


def downgrade() -> None:
    op.drop_column("conversations", "awaited")
