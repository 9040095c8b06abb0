"""Always find search documents by their index, and sort more new entries into it at a time.

PostgreSQL plans with a random read for each page of the index's list of new entries, and with nothing for reading the
documents, which are outside of their rows: with a list of 0.5 MB it would read all of 10,000 documents instead.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0039"
down_revision: str | None = "0038"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_FIND = """
create or replace function find_documents(query tsquery) returns setof uuid
language sql stable parallel safe set enable_seqscan = off
begin atomic select conversation_id from conversation_search where tsv @@ query; end
"""


def upgrade() -> None:
    op.execute(_FIND)
    op.execute("alter index conversation_search_idx set (gin_pending_list_limit = 16384)")


def downgrade() -> None:
    op.execute("alter index conversation_search_idx reset (gin_pending_list_limit)")
    op.execute("drop function find_documents")
