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
        "emails",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("recipient_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("data_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("counted_tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("uncertain_tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("to_address", sa.Text(), nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("audience in ('customer', 'support')", name=op.f("emails_audience_check")),
        sa.CheckConstraint(
            "state in ('scheduled', 'sending', 'sent', 'failed', 'cancelled', 'suppressed')",
            name=op.f("emails_state_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("emails_pkey")),
    )
    op.create_index("emails_conversation_idx", "emails", ["conversation_id"], unique=False)
    op.create_index(
        "emails_due_idx", "emails", ["next_attempt_at"], unique=False, postgresql_where=sa.text("state = 'scheduled'")
    )
    op.create_index(
        "emails_leased_idx", "emails", ["lease_until"], unique=False, postgresql_where=sa.text("state = 'sending'")
    )
    op.create_index(
        "emails_open_key",
        "emails",
        ["recipient_id", "conversation_id", "audience"],
        unique=True,
        postgresql_where=sa.text("state = 'scheduled' and claimed_at is null"),
    )
    op.create_index("emails_recipient_idx", "emails", ["recipient_id"], unique=False)
    op.create_index("emails_state_idx", "emails", ["state", sa.literal_column("id desc")], unique=False)
    op.create_table(
        "feed_cursor",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("head", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("epoch", sa.Uuid(), nullable=True),
        sa.CheckConstraint("singleton", name=op.f("feed_cursor_one_row_check")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("feed_cursor_pkey")),
    )
    op.create_table(
        "gate",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("breaker_trips", sa.Integer(), server_default="0", nullable=False),
        sa.Column("breaker_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("breaker_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("singleton", name=op.f("gate_one_row_check")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("gate_pkey")),
    )
    op.execute("insert into feed_cursor default values")
    op.execute("insert into gate default values")
    op.create_table(
        "inbox",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "received_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("attempted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("parked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("event", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("event_id", name=op.f("inbox_pkey")),
    )
    op.create_index(
        "inbox_parked_idx", "inbox", ["parked_at"], unique=False, postgresql_where=sa.text("parked_at is not null")
    )
    op.create_index("inbox_received_idx", "inbox", ["received_at"], unique=False)
    op.create_table(
        "marks",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("read_by_user_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("read_by_admin_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("conversation_id", name=op.f("marks_pkey")),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("sender_id", sa.Text(), nullable=False),
        sa.Column("preview", sa.Text(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("notifications_pkey")),
        sa.UniqueConstraint("message_id", name=op.f("notifications_message_id_key")),
    )
    op.create_index("notifications_conversation_idx", "notifications", ["conversation_id", "number"], unique=False)
    op.create_index(
        "notifications_unread_idx",
        "notifications",
        ["user_id"],
        unique=False,
        postgresql_where=sa.text("read_at is null"),
    )
    op.create_index("notifications_user_idx", "notifications", ["user_id", sa.literal_column("id desc")], unique=False)
    op.create_table(
        "people",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("locale", sa.Text(), nullable=True),
        sa.Column("zoneinfo", sa.Text(), nullable=True),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("people_pkey")),
    )
    op.create_table(
        "email_messages",
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("email_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sender_id", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("left_out", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(
            ["email_id"], ["emails.id"], name=op.f("email_messages_email_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("message_id", name=op.f("email_messages_pkey")),
    )
    op.create_index(op.f("email_messages_email_id_idx"), "email_messages", ["email_id"], unique=False)
    op.create_table(
        "email_tries",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("email_id", sa.Uuid(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "finished_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("code", sa.Integer(), nullable=True),
        sa.Column("reply", sa.Text(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["email_id"], ["emails.id"], name=op.f("email_tries_email_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("email_tries_pkey")),
    )
    op.create_index(op.f("email_tries_email_id_idx"), "email_tries", ["email_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("email_tries_email_id_idx"), table_name="email_tries")
    op.drop_table("email_tries")
    op.drop_index(op.f("email_messages_email_id_idx"), table_name="email_messages")
    op.drop_table("email_messages")
    op.drop_table("people")
    op.drop_index("notifications_user_idx", table_name="notifications")
    op.drop_index("notifications_unread_idx", table_name="notifications", postgresql_where=sa.text("read_at is null"))
    op.drop_index("notifications_conversation_idx", table_name="notifications")
    op.drop_table("notifications")
    op.drop_table("marks")
    op.drop_index("inbox_received_idx", table_name="inbox")
    op.drop_index("inbox_parked_idx", table_name="inbox", postgresql_where=sa.text("parked_at is not null"))
    op.drop_table("inbox")
    op.drop_table("gate")
    op.drop_table("feed_cursor")
    op.drop_index("emails_state_idx", table_name="emails")
    op.drop_index("emails_recipient_idx", table_name="emails")
    op.drop_index(
        "emails_open_key", table_name="emails", postgresql_where=sa.text("state = 'scheduled' and claimed_at is null")
    )
    op.drop_index("emails_leased_idx", table_name="emails", postgresql_where=sa.text("state = 'sending'"))
    op.drop_index("emails_due_idx", table_name="emails", postgresql_where=sa.text("state = 'scheduled'"))
    op.drop_index("emails_conversation_idx", table_name="emails")
    op.drop_table("emails")
