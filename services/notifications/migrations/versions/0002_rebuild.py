"""Store the progress of a rebuild."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    for name in ("rebuild_reason", "rebuild_kind", "rebuild_after"):
        op.add_column("feed_cursor", sa.Column(name, sa.Text(), nullable=True))
    op.add_column("feed_cursor", sa.Column("rebuilt_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("feed_cursor", sa.Column("restored_to", sa.BigInteger(), nullable=True))
    op.add_column("feed_cursor", sa.Column("restored_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("gate", sa.Column("incarnation", sa.Text(), nullable=True))
    op.add_column("feed_cursor", sa.Column("caught_up_at", sa.DateTime(timezone=True), nullable=True))
    # Two steps: a default that differs from row to row would rewrite the whole table.
    now = sa.text("now()")
    op.add_column("marks", sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False))
    op.alter_column("marks", "created_at", server_default=sa.text("clock_timestamp()"))


def downgrade() -> None:
    op.drop_column("marks", "created_at")
    op.drop_column("gate", "incarnation")
    op.drop_column("feed_cursor", "caught_up_at")
    for name in ("restored_until", "restored_to", "rebuilt_at", "rebuild_after", "rebuild_kind", "rebuild_reason"):
        op.drop_column("feed_cursor", name)
