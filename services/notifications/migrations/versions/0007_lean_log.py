"""Write less to PostgreSQL's log: no content of emails, fewer index entries, room in pages for updates."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Release 0.2.0 stores rendered emails, and renders those without content again. Later releases don't set the column.
# The trigger is an AFTER trigger, because PostgreSQL locks each updated row for any BEFORE trigger.
_FUNCTION = """
create or replace function discard_content() returns trigger language plpgsql as $$
begin
    update emails set content = null where id = new.id;
    return null;
end $$
"""
_TRIGGER = """
create or replace trigger emails_discard_content after update of content on emails
for each row when (new.content is not null) execute function discard_content()
"""
# Only unsent emails have content.
_DISCARD = """
update emails set content = null where state in ('scheduled', 'sending', 'failed') and content is not null
"""


def upgrade() -> None:
    # Each statement is a transaction of its own, so that locks are short, and may run again after an interruption.
    with op.get_context().autocommit_block():
        op.execute(_FUNCTION)
        op.execute(_TRIGGER)
        op.execute(_DISCARD)
        op.execute("alter table emails set (fillfactor = 50)")  # for new pages
        # Emails are never deleted, and get messages and attempts from statements that read or insert the email.
        for table in ("email_messages", "email_tries"):
            op.execute(f"alter table {table} drop constraint if exists {table}_email_id_fkey")
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute("drop index concurrently if exists emails_finished_idx")
        op.create_index(
            "emails_finished_idx",
            "emails",
            ["state", "id"],
            postgresql_where=sa.text("finished_at is not null"),
            postgresql_concurrently=True,
        )
        op.execute("drop index concurrently if exists emails_state_idx")
        op.execute("drop index concurrently if exists inbox_received_idx")
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    op.create_index("inbox_received_idx", "inbox", ["received_at"])
    op.create_index("emails_state_idx", "emails", ["state", sa.literal_column("id desc")])
    op.drop_index("emails_finished_idx", table_name="emails")
    for table in ("email_messages", "email_tries"):
        op.create_foreign_key(f"{table}_email_id_fkey", table, "emails", ["email_id"], ["id"], ondelete="CASCADE")
    op.execute("alter table emails reset (fillfactor)")
    op.execute("drop trigger emails_discard_content on emails")
    op.execute("drop function discard_content()")
