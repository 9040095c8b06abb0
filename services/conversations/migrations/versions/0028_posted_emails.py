"""Held emails that belong to no conversation, and the real senders of emails that were posted by hand."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0028"
down_revision: str | None = "0027"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_KINDS = ("assignment", "email", "labels", "note", "removal", "status")


def upgrade() -> None:
    op.create_table(
        "held_letters",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="held_letters_pkey"),
        if_not_exists=True,
    )
    _allow((*_KINDS, "posted-email"))
    # Each statement is a transaction of its own, and may run again after an interruption.
    with op.get_context().autocommit_block():
        op.execute("alter table conversation_entries validate constraint conversation_entries_kind_check")
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute(
            "create index concurrently if not exists conversation_entries_posted_idx on conversation_entries (id)"
            " where kind = 'posted-email'"
        )
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    op.drop_index("conversation_entries_posted_idx", "conversation_entries")
    op.execute("delete from conversation_entries where kind = 'posted-email'")
    _allow(_KINDS)
    op.execute("alter table conversation_entries validate constraint conversation_entries_kind_check")
    op.drop_table("held_letters")


def _allow(kinds: Sequence[str]) -> None:
    names = ", ".join(f"'{kind}'" for kind in sorted(kinds))
    op.execute("alter table conversation_entries drop constraint if exists conversation_entries_kind_check")
    op.execute(
        f"alter table conversation_entries add constraint conversation_entries_kind_check check (kind in ({names}))"
        " not valid"
    )
