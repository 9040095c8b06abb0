"""Search the store's own fields of customers, for admins."""

from collections.abc import Sequence

from alembic import op

from shared.database.migrations import LOCK_TIMEOUT

revision: str = "0029"
down_revision: str | None = "0028"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_FORM = """
create or replace function custom_search_form(custom json) returns text language sql immutable parallel safe return
    search_form((
        select string_agg(value #>> '{}', chr(10)) from json_each(custom) where json_typeof(value) <> 'boolean'
    ))
"""


def upgrade() -> None:
    op.execute(_FORM)
    # Each statement is a transaction of its own, and may run again after an interruption.
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # building an index waits for older transactions, and blocks nobody
        op.execute(
            "create index concurrently if not exists users_custom_search_form_idx on users"
            " using gin (custom_search_form(custom) gin_trgm_ops) where custom is not null"
        )
        op.execute(LOCK_TIMEOUT)


def downgrade() -> None:
    op.drop_index("users_custom_search_form_idx", "users")
    op.execute("drop function custom_search_form(json)")
