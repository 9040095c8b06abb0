"""Find emails in hand by their mailbox and by their lease in one index instead of two."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0023"
down_revision: str | None = "0022"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_OLD = {"emails_leased_idx": "lease_until", "emails_in_hand_idx": "mailbox"}


def upgrade() -> None:
    # Serves the processes of the previous version as well. Each statement is a transaction of its own, and may run
    # again after an interruption.
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # these wait for older transactions, and block nobody
        op.execute(
            "create index concurrently if not exists emails_sending_idx on emails (mailbox, lease_until)"
            " where state = 'sending'"
        )
        for name in _OLD:
            op.execute(f"drop index concurrently if exists {name}")
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    for name, column in _OLD.items():
        op.create_index(name, "emails", [column], postgresql_where=sa.text("state = 'sending'"))
    op.drop_index("emails_sending_idx", table_name="emails")
