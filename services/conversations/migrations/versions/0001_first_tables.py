"""Create the first tables."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "create_keys",
        sa.Column("caller_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("caller_id", "key", name=op.f("create_keys_pkey")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("conversation_id", sa.Uuid(), nullable=True),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "occurred_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("numbered_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("events_pkey")),
        sa.UniqueConstraint("position", name=op.f("events_position_key")),
    )
    op.create_index("events_conversation_idx", "events", ["conversation_id"], unique=False)
    op.create_index(
        "events_unnumbered_idx", "events", ["seq"], unique=False, postgresql_where=sa.text("position is null")
    )
    op.create_index("events_user_idx", "events", ["user_id", "position"], unique=False)
    op.create_table(
        "feed",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("head", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("epoch", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.CheckConstraint("singleton", name=op.f("feed_one_row_check")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("feed_pkey")),
    )
    op.execute("insert into feed default values")
    op.create_table(
        "users",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("locale", sa.Text(), nullable=True),
        sa.Column("zoneinfo", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("synced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("role in ('admin', 'customer')", name=op.f("users_role_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("users_pkey")),
    )
    op.create_table(
        "orders",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("total", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column(
            "items",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("synced_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("orders_user_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("orders_pkey")),
    )
    op.create_index(op.f("orders_number_idx"), "orders", ["number"], unique=False)
    op.create_index(
        op.f("orders_user_id_idx"),
        "orders",
        ["user_id", sa.literal_column("placed_at desc"), sa.literal_column("id desc")],
        unique=False,
    )
    op.create_table(
        "conversations",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("is_read_by_admin", sa.Boolean(), nullable=False),
        sa.Column("is_read_by_user", sa.Boolean(), nullable=False),
        sa.Column("read_by_admin_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("read_by_user_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("message_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_admin_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_customer_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_message_id", sa.Uuid(), nullable=True),
        sa.Column("last_message_role", sa.Text(), nullable=True),
        sa.Column("last_message_preview", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_activity_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("unanswered_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "waiting_since",
            sa.DateTime(timezone=True),
            sa.Computed("case when status in ('AWAITING_ADMIN', 'OPEN') then unanswered_since end", persisted=True),
            nullable=True,
        ),
        sa.CheckConstraint(
            "status in ('AWAITING_ADMIN', 'AWAITING_USER', 'CLOSED', 'OPEN', 'RESOLVED')",
            name=op.f("conversations_status_check"),
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("conversations_order_id_fkey")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("conversations_user_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("conversations_pkey")),
    )
    op.create_index(
        "conversations_activity_idx",
        "conversations",
        [sa.literal_column("last_activity_at desc"), sa.literal_column("id desc")],
        unique=False,
    )
    op.create_index(
        "conversations_order_idx",
        "conversations",
        ["order_id"],
        unique=False,
        postgresql_where=sa.text("order_id is not null"),
    )
    op.create_index(
        "conversations_status_activity_idx",
        "conversations",
        ["status", sa.literal_column("last_activity_at desc"), sa.literal_column("id desc")],
        unique=False,
    )
    op.create_index(
        "conversations_unread_by_admin_idx",
        "conversations",
        [sa.literal_column("last_activity_at desc"), sa.literal_column("id desc")],
        unique=False,
        postgresql_where=sa.text("not is_read_by_admin"),
    )
    op.create_index(
        "conversations_unread_by_user_idx",
        "conversations",
        ["user_id"],
        unique=False,
        postgresql_where=sa.text("not is_read_by_user"),
    )
    op.create_index(
        "conversations_user_activity_idx",
        "conversations",
        ["user_id", sa.literal_column("last_activity_at desc"), sa.literal_column("id desc")],
        unique=False,
    )
    op.create_index(
        "conversations_waiting_idx",
        "conversations",
        [sa.literal_column("coalesce(waiting_since, 'infinity'::timestamptz)"), "id"],
        unique=False,
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sender_id", sa.Text(), nullable=False),
        sa.Column("sender_role", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_hash", sa.Text(), nullable=True),
        sa.CheckConstraint("sender_role in ('admin', 'customer')", name=op.f("messages_sender_role_check")),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name=op.f("messages_conversation_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["sender_id"], ["users.id"], name=op.f("messages_sender_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("messages_pkey")),
        sa.UniqueConstraint("conversation_id", "number", name=op.f("messages_conversation_id_number_key")),
    )
    op.create_index(
        "messages_idempotency_key",
        "messages",
        ["conversation_id", "sender_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key is not null"),
    )


def downgrade() -> None:
    op.drop_index(
        "messages_idempotency_key",
        table_name="messages",
        postgresql_where=sa.text("idempotency_key is not null"),
    )
    op.drop_table("messages")
    op.drop_index("conversations_waiting_idx", table_name="conversations")
    op.drop_index("conversations_user_activity_idx", table_name="conversations")
    op.drop_index(
        "conversations_unread_by_user_idx",
        table_name="conversations",
        postgresql_where=sa.text("not is_read_by_user"),
    )
    op.drop_index(
        "conversations_unread_by_admin_idx",
        table_name="conversations",
        postgresql_where=sa.text("not is_read_by_admin"),
    )
    op.drop_index("conversations_status_activity_idx", table_name="conversations")
    op.drop_index(
        "conversations_order_idx",
        table_name="conversations",
        postgresql_where=sa.text("order_id is not null"),
    )
    op.drop_index("conversations_activity_idx", table_name="conversations")
    op.drop_table("conversations")
    op.drop_index(op.f("orders_user_id_idx"), table_name="orders")
    op.drop_index(op.f("orders_number_idx"), table_name="orders")
    op.drop_table("orders")
    op.drop_table("users")
    op.drop_table("feed")
    op.drop_index("events_user_idx", table_name="events")
    op.drop_index("events_unnumbered_idx", table_name="events", postgresql_where=sa.text("position is null"))
    op.drop_index("events_conversation_idx", table_name="events")
    op.drop_table("events")
    op.drop_table("create_keys")
