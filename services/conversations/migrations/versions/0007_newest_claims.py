"""Store when the claims that last changed a user were issued."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("users", sa.Column("claims_issued_at", sa.BigInteger()))


def downgrade() -> None:
    op.drop_column("users", "claims_issued_at")
