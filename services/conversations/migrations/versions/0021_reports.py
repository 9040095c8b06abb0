"""The facts of reports."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "conversation_facts",
        sa.Column("conversation_id", sa.Uuid, nullable=False),
        sa.Column("cycle", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("opened_by", sa.Text),
        sa.Column("replied_at", _TIME),
        sa.Column("replied_by", sa.Text),
        sa.Column("resolved_at", _TIME),
        sa.Column("resolved_by", sa.Text),
        sa.PrimaryKeyConstraint("conversation_id", "cycle", name="conversation_facts_pkey"),
    )
    # Most updates change only the number, and find room on the same page.
    op.execute("alter table conversation_facts set (fillfactor = 90)")
    op.create_index("conversation_facts_opened_at_idx", "conversation_facts", ["opened_at"])
    for column in ("replied_at", "resolved_at"):
        op.create_index(
            f"conversation_facts_{column}_idx",
            "conversation_facts",
            [column],
            postgresql_where=sa.text(f"{column} is not null"),
        )
    op.create_table(
        "report_progress",
        sa.Column("singleton", sa.Boolean, server_default=sa.text("true"), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("fill_before", sa.Uuid),
        sa.Column("filled", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("exact_since", _TIME),
        sa.CheckConstraint("singleton", name="report_progress_one_row_check"),
        sa.PrimaryKeyConstraint("singleton", name="report_progress_pkey"),
    )
    # The jobs count the conversations that are there already, from the newest one backwards.
    op.execute("""
        insert into report_progress (position, fill_before, exact_since)
        select head, case when are_there then 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid end,
            case when are_there then clock_timestamp() end
        from feed cross join lateral (select exists (select from conversations) as are_there) as existing
    """)


def downgrade() -> None:
    op.drop_table("report_progress")
    op.drop_table("conversation_facts")
