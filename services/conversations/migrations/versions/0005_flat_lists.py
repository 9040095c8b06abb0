"""Index lists by status and read state."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_index(
        "conversations_state_activity_idx",
        "conversations",
        [
            "status",
            "is_read_by_admin",
            sa.literal_column("last_activity_at desc"),
            sa.literal_column("id desc"),
        ],
    )
    op.create_index(
        "conversations_state_waiting_idx",
        "conversations",
        [
            "status",
            "is_read_by_admin",
            sa.literal_column("coalesce(waiting_since, 'infinity'::timestamptz)"),
            "id",
        ],
    )
    op.drop_index("conversations_status_activity_idx", table_name="conversations")
    op.drop_index("conversations_unread_by_admin_idx", table_name="conversations")
    op.drop_index("conversations_waiting_idx", table_name="conversations")
    op.create_index("messages_admin_idx", "messages", ["sender_id"], postgresql_where=sa.text("sender_role = 'admin'"))


def downgrade() -> None:
    op.drop_index("messages_admin_idx", table_name="messages")
    op.create_index(
        "conversations_waiting_idx",
        "conversations",
        [sa.literal_column("coalesce(waiting_since, 'infinity'::timestamptz)"), "id"],
    )
    op.create_index(
        "conversations_unread_by_admin_idx",
        "conversations",
        [sa.literal_column("last_activity_at desc"), sa.literal_column("id desc")],
        postgresql_where=sa.text("not is_read_by_admin"),
    )
    op.create_index(
        "conversations_status_activity_idx",
        "conversations",
        ["status", sa.literal_column("last_activity_at desc"), sa.literal_column("id desc")],
    )
    op.drop_index("conversations_state_waiting_idx", table_name="conversations")
    op.drop_index("conversations_state_activity_idx", table_name="conversations")
