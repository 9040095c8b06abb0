"""Search in notes."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "note_search",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("tsv", TSVECTOR(), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="note_search_conversation_id_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("conversation_id", name="note_search_pkey"),
    )
    op.execute("alter table note_search set (toast_tuple_target = 128)")
    op.create_index("note_search_idx", "note_search", ["tsv"], postgresql_using="gin")
    # The notes that exist are indexed with their conversations.
    op.execute("""
        update search_progress set filled = 0, fill_before = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
        where exists (select from conversation_entries where kind = 'note')
    """)


def downgrade() -> None:
    op.drop_table("note_search")
