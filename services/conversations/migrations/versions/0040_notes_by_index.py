"""Always find notes by their index, as the documents of conversations: see 0039.

With a list of 2.4 MB, PostgreSQL read all notes of 60,000 conversations for a word that none has, if these were long.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0040"
down_revision: str | None = "0039"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_FIND = """
create or replace function find_notes(query tsquery, at_most bigint) returns setof uuid
language sql stable parallel safe set enable_seqscan = off
begin atomic select conversation_id from note_search where tsv @@ query limit at_most; end
"""


def upgrade() -> None:
    op.execute(_FIND)


def downgrade() -> None:
    op.execute("drop function find_notes")
