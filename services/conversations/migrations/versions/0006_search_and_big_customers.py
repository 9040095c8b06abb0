"""Index the customer search, and fix plans for customers with many conversations."""

from collections.abc import Sequence

from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Part of PostgreSQL's contrib, and a trusted extension: the owner of the database may install it.
    op.execute("create extension if not exists pg_trgm")
    op.create_index(
        "users_search_idx",
        "users",
        ["name", "email", "id"],
        postgresql_using="gin",
        postgresql_ops=dict.fromkeys(("name", "email", "id"), "gin_trgm_ops"),
    )

    # Generic plans must suit customers with very many conversations. Sorting takes longer the more there are; reading
    # a page from the index in order takes the same time for every customer.
    op.execute("alter table conversations alter column user_id set (n_distinct = -0.001)")


def downgrade() -> None:
    op.execute("alter table conversations alter column user_id reset (n_distinct)")
    op.drop_index("users_search_idx", table_name="users")
