"""Erase in batches, and store the synced role."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.add_column("users", sa.Column("synced_role", sa.Text()))
    op.create_table(
        "erasures",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=True),
        sa.Column("content", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=True),
        sa.Column("whole_log", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("position", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("erased", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("advanced_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="erasures_pkey"),
    )
    op.create_index("erasures_unfinished_idx", "erasures", ["id"], postgresql_where=sa.text("finished_at is null"))
    op.create_index("erasures_user_idx", "erasures", ["user_id"])
    op.create_index("erasures_conversation_id_idx", "erasures", ["conversation_id"])
    op.drop_index("events_conversation_idx", table_name="events")
    op.create_index("events_conversation_idx", "events", ["conversation_id", "seq"])

    # Replaces the cascade. It is a trigger because during an upgrade an API of the previous release still deletes
    # conversations without adding an erasure, and their messages must be erased too.
    op.drop_constraint("messages_conversation_id_fkey", "messages")
    op.execute("""
        create function note_erasures() returns trigger language plpgsql as $$
        begin
            insert into erasures (conversation_id, user_id) select id, user_id from gone;
            return null;
        end
        $$
    """)
    op.execute("""
        create trigger conversations_erasure after delete on conversations
        referencing old table as gone for each statement execute function note_erasures()
    """)


def downgrade() -> None:
    op.execute("drop trigger conversations_erasure on conversations")
    op.execute("drop function note_erasures()")
    op.execute("delete from messages where conversation_id not in (select id from conversations)")
    op.create_foreign_key(
        "messages_conversation_id_fkey", "messages", "conversations", ["conversation_id"], ["id"], ondelete="CASCADE"
    )
    op.drop_index("events_conversation_idx", table_name="events")
    op.create_index("events_conversation_idx", "events", ["conversation_id"])
    op.drop_table("erasures")
    op.drop_column("users", "synced_role")
