"""Assignment, labels, notes and the timeline; canned replies; removed messages; events for admins only."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "labels",
        sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("folded", sa.Text, nullable=False),
        sa.UniqueConstraint("folded", name="labels_folded_key"),
    )
    op.create_table(
        "canned_replies",
        sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.func.uuidv7()),
        sa.Column("shortcut", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("locale", sa.Text),
    )
    op.create_index(
        "canned_replies_shortcut_key",
        "canned_replies",
        [sa.text("lower(shortcut)"), sa.text("coalesce(locale, '')")],
        unique=True,
    )
    op.create_table(
        "conversation_entries",
        sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.func.uuidv7()),
        sa.Column("conversation_id", sa.Uuid, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("after_number", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("actor_id", sa.Text, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("data", postgresql.JSONB, nullable=False),
        sa.CheckConstraint("kind in ('assignment', 'labels', 'note', 'removal', 'status')", name="kind"),
    )
    op.create_index(
        "conversation_entries_order_idx", "conversation_entries", ["conversation_id", "after_number", "at", "id"]
    )
    op.create_index(
        "conversation_entries_notes_idx",
        "conversation_entries",
        ["actor_id"],
        postgresql_where=sa.text("kind = 'note'"),
    )
    op.add_column("conversations", sa.Column("assignee_id", sa.Text))
    op.add_column("conversations", sa.Column("first_reply_at", _TIME))
    op.add_column(
        "conversations",
        sa.Column("label_ids", postgresql.ARRAY(sa.Integer), server_default=sa.text("'{}'"), nullable=False),
    )
    op.add_column("messages", sa.Column("removed_at", _TIME))
    op.add_column("events", sa.Column("audience", sa.Text))


def downgrade() -> None:
    op.drop_column("events", "audience")
    op.drop_column("messages", "removed_at")
    for column in ("label_ids", "first_reply_at", "assignee_id"):
        op.drop_column("conversations", column)
    for table in ("conversation_entries", "canned_replies", "labels"):
        op.drop_table(table)
