"""Keep the documents of search out of the write-ahead log.

They are made from the messages, and can be made again. Whether they are there is said by the progress, which a crash
of PostgreSQL empties with them.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0041"
down_revision: str | None = "0040"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = ("search_progress", "conversation_search", "note_search")


def upgrade() -> None:
    # Copies the documents, and blocks searches meanwhile. Releases before this one have none.
    for table in _TABLES:
        op.execute(f"alter table {table} set unlogged")


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"alter table {table} set logged")
