"""What became of emails: entries of the timeline, and a cursor in the notifications service's log."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_KINDS = ("assignment", "labels", "note", "removal", "status")


def upgrade() -> None:
    op.create_table(
        "notifications_cursor",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("epoch", sa.Uuid()),
        sa.Column("types", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("list_after", sa.Uuid()),
        sa.Column("list_reason", sa.Text()),
        sa.Column(
            "caught_up_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("singleton", name="notifications_cursor_one_row_check"),
        sa.PrimaryKeyConstraint("singleton", name="notifications_cursor_pkey"),
    )
    op.execute("insert into notifications_cursor default values")
    _allow((*_KINDS, "email"))


def downgrade() -> None:
    op.execute("delete from conversation_entries where kind = 'email'")
    _allow(_KINDS)
    op.drop_table("notifications_cursor")


def _allow(kinds: Sequence[str]) -> None:
    names = ", ".join(f"'{kind}'" for kind in sorted(kinds))
    op.execute("alter table conversation_entries drop constraint conversation_entries_kind_check")
    op.execute(
        f"alter table conversation_entries add constraint conversation_entries_kind_check check (kind in ({names}))"
        " not valid"
    )
    op.execute("alter table conversation_entries validate constraint conversation_entries_kind_check")
