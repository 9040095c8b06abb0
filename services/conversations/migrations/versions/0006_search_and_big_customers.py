"""search, and plans for big customers"""

from collections.abc import Sequence

from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # A part of PostgreSQL's contrib, and trusted: the owner of the database may install it.
    op.execute("create extension if not exists pg_trgm")
    op.create_index(
        "users_search_idx",
        "users",
        ["name", "email", "id"],
        postgresql_using="gin",
        postgresql_ops=dict.fromkeys(("name", "email", "id"), "gin_trgm_ops"),
    )

    # A plan that is kept for any customer is to hold for one with very many conversations: found and sorted, they take
    # the longer the more there are; taken from the index in their order, a page takes the same for all.
    op.execute("alter table conversations alter column user_id set (n_distinct = -0.001)")


def downgrade() -> None:
    op.execute("alter table conversations alter column user_id reset (n_distinct)")
    op.drop_index("users_search_idx", table_name="users")
