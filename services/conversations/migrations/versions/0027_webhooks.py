"""Webhooks, their deliveries, and the cursor in the log."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision: str = "0027"
down_revision: str | None = "0026"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid, server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("types", ARRAY(sa.Text), nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("old_secret", sa.Text),
        sa.Column("old_secret_until", _TIME),
        sa.Column("after_position", sa.BigInteger, nullable=False),
        sa.Column("since", _TIME, server_default=_NOW, nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("failures", sa.Integer, server_default="0", nullable=False),
        sa.Column("failing_since", _TIME),
        sa.Column("paused_until", _TIME),
        sa.Column("disabled_at", _TIME),
        sa.Column("disabled_reason", sa.Text),
        sa.Column("deleted_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="webhooks_pkey"),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("webhook_id", sa.Uuid, nullable=False),
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("lane", sa.SmallInteger, nullable=False),
        sa.Column("conversation_id", sa.Uuid),
        sa.Column("message_id", sa.Uuid),
        sa.Column("data", JSONB),
        sa.Column("replay_of", sa.BigInteger),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("state", sa.Text, server_default="pending", nullable=False),
        sa.Column("due_at", _TIME),
        sa.Column("attempts", sa.SmallInteger, server_default="0", nullable=False),
        sa.Column("attempted_at", _TIME),
        sa.Column("status", sa.SmallInteger),
        sa.Column("error", sa.Text),
        sa.Column("response", sa.Text),
        sa.Column("duration_ms", sa.Integer),
        sa.CheckConstraint(
            "state in ('delivered', 'dropped', 'failed', 'pending')", name="webhook_deliveries_state_check"
        ),
        sa.PrimaryKeyConstraint("id", name="webhook_deliveries_pkey"),
    )
    for name, columns, condition in (
        ("event_key", ("event_id", "webhook_id"), "replay_of is null"),
        ("list_idx", ("webhook_id", "id"), None),
        ("failed_idx", ("webhook_id", "id"), "state = 'failed'"),
        ("due_idx", ("webhook_id", "due_at"), "state = 'pending' and due_at is not null"),
        ("line_idx", ("webhook_id", "lane", "conversation_id", "id"), "state = 'pending'"),
        ("response_idx", ("conversation_id",), "response is not null"),
    ):
        op.create_index(
            f"webhook_deliveries_{name}",
            "webhook_deliveries",
            list(columns),
            unique=name == "event_key",
            postgresql_where=condition and sa.text(condition),
        )
    op.create_table(
        "webhook_progress",
        sa.Column("singleton", sa.Boolean, server_default=sa.text("true"), nullable=False),
        sa.Column("position", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("holder", sa.Uuid),
        sa.Column("held_until", _TIME),
        sa.CheckConstraint("singleton", name="webhook_progress_one_row_check"),
        sa.PrimaryKeyConstraint("singleton", name="webhook_progress_pkey"),
    )
    op.execute("insert into webhook_progress default values")


def downgrade() -> None:
    op.drop_table("webhook_progress")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
