"""Index conversations by assignee and label, and removed messages."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Each statement is a transaction of its own, and may run again after an interruption.
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        for name, columns, condition in (
            ("assigned_idx", "assignee_id, status, last_activity_at desc, id desc", "assignee_id is not null"),
            ("unassigned_idx", "status, last_activity_at desc, id desc", "assignee_id is null"),
        ):
            op.execute(
                f"create index concurrently if not exists conversations_{name} on conversations ({columns})"
                f" where {condition}"
            )
        op.execute(
            "create index concurrently if not exists conversations_labels_idx on conversations using gin (label_ids)"
            " with (fastupdate = off) where label_ids <> '{}'"
        )
        op.execute("create index concurrently if not exists users_admins_idx on users (id) where role = 'admin'")
        op.execute(
            "create index concurrently if not exists messages_removed_idx on messages (id) where removed_at is not null"
        )
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    for name in (
        "users_admins_idx",
        "messages_removed_idx",
        "conversations_labels_idx",
        "conversations_unassigned_idx",
    ):
        op.execute(f"drop index {name}")
    op.execute("drop index conversations_assigned_idx")
