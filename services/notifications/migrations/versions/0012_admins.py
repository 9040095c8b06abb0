"""Notify admins: records, each admin's own reading and preferences, and emails to admins."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "admin_notifications",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("recipient_id", sa.Text()),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("source_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Text(), nullable=False),
        sa.Column("preview", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("turn", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="admin_notifications_pkey"),
    )
    op.create_index("admin_notifications_turn_idx", "admin_notifications", ["turn"])
    op.create_index("admin_notifications_conversation_idx", "admin_notifications", ["conversation_id"])
    op.create_table(
        "admin_reads",
        sa.Column("notification_id", sa.Uuid(), nullable=False),
        sa.Column("admin_id", sa.Text(), nullable=False),
        sa.Column("turn", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["notification_id"],
            ["admin_notifications.id"],
            name="admin_reads_notification_id_fkey",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("notification_id", "admin_id", name="admin_reads_pkey"),
    )
    op.create_table(
        "admin_marks",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("admin_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "admin_id", name="admin_marks_pkey"),
    )
    op.create_table(
        "bells",
        sa.Column("admin_id", sa.Text(), nullable=False),
        sa.Column("read_through", sa.Uuid()),
        sa.Column("preferences", JSONB()),
        sa.PrimaryKeyConstraint("admin_id", name="bells_pkey"),
    )
    op.add_column("marks", sa.Column("opened_by_admin", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("email_messages", sa.Column("notification_id", sa.Uuid()))
    # All rows satisfy it: it only allows one value more.
    op.execute("alter table emails drop constraint emails_audience_check")
    op.execute("""
        alter table emails add constraint emails_audience_check
        check (audience in ('customer', 'support', 'admin')) not valid
    """)


def downgrade() -> None:
    op.execute("delete from email_messages where email_id in (select id from emails where audience = 'admin')")
    op.execute("delete from email_tries where email_id in (select id from emails where audience = 'admin')")
    op.execute("delete from emails where audience = 'admin'")
    op.execute("alter table emails drop constraint emails_audience_check")
    op.execute("alter table emails add constraint emails_audience_check check (audience in ('customer', 'support'))")
    op.drop_column("email_messages", "notification_id")
    op.drop_column("marks", "opened_by_admin")
    for table in ("bells", "admin_marks", "admin_reads", "admin_notifications"):
        op.drop_table(table)
