"""Search in conversations."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "conversation_search",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("first_number", sa.Integer(), nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column("tsv", TSVECTOR(), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name="conversation_search_conversation_id_fkey",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("conversation_id", "first_number", name="conversation_search_pkey"),
    )
    # Documents over 2 KB are stored outside of the rows: a search reads many rows whose documents it does not need.
    op.execute("alter table conversation_search set (toast_tuple_target = 128)")
    op.create_index("conversation_search_idx", "conversation_search", ["tsv"], postgresql_using="gin")
    op.create_table(
        "search_progress",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("fill_before", sa.Uuid(), nullable=True),
        sa.Column("filled", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("singleton", name="search_progress_one_row_check"),
        sa.PrimaryKeyConstraint("singleton", name="search_progress_pkey"),
    )
    op.create_table(
        "search_parked",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("parked_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="search_parked_conversation_id_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("conversation_id", name="search_parked_pkey"),
    )
    # The jobs index the conversations that are there already, from the newest one backwards.
    op.execute("""
        insert into search_progress (position, fill_before)
        select head, (select 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid from conversations limit 1) from feed
    """)


def downgrade() -> None:
    op.drop_table("search_parked")
    op.drop_table("search_progress")
    op.drop_table("conversation_search")
