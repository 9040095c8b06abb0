"""Track readers of the log, for retention."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "feed_readers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("feed_readers_pkey")),
    )
    op.add_column("feed", sa.Column("incarnation", sa.Text(), nullable=True))
    op.create_index(op.f("create_keys_created_at_idx"), "create_keys", ["created_at"])


def downgrade() -> None:
    op.drop_index(op.f("create_keys_created_at_idx"), table_name="create_keys")
    op.drop_column("feed", "incarnation")
    op.drop_table("feed_readers")
