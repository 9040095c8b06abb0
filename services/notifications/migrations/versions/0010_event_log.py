"""Log what becomes of emails, for the conversations service."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("position", sa.BigInteger()),
        sa.Column(
            "numbered_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
    )
    op.execute("alter table events set (fillfactor = 50)")  # room for the update that numbers an event
    op.create_index(
        "events_position_idx",
        "events",
        ["position"],
        unique=True,
        postgresql_where=sa.text("position is not null"),
    )
    op.create_index(
        "events_unnumbered_idx", "events", ["seq"], unique=True, postgresql_where=sa.text("position is null")
    )
    op.create_table(
        "feed",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("head", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("epoch", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("incarnation", sa.Text()),
        sa.CheckConstraint("singleton", name="feed_one_row_check"),
        sa.PrimaryKeyConstraint("singleton", name="feed_pkey"),
    )
    op.execute("insert into feed default values")
    op.create_table(
        "feed_readers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="feed_readers_pkey"),
    )


def downgrade() -> None:
    op.drop_table("feed_readers")
    op.drop_table("feed")
    op.drop_table("events")
