"""Find the emails whose originals are kept."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_index(
        "inbound_emails_original_idx", "inbound_emails", ["id"], postgresql_where=sa.text("original is not null")
    )


def downgrade() -> None:
    op.drop_index("inbound_emails_original_idx", "inbound_emails")
