"""The store's own fields of a user."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("users", sa.Column("custom", sa.JSON(), nullable=True))
    # An API of the previous release, which does not know the column, may delete a user during the upgrade.
    op.execute("""
        create function erase_custom_fields() returns trigger language plpgsql as $$
        begin
            new.custom := null;
            return new;
        end $$
    """)
    op.execute("""
        create trigger users_erase_custom before update of deleted_at on users
        for each row when (new.deleted_at is not null and new.custom is not null)
        execute function erase_custom_fields()
    """)


def downgrade() -> None:
    op.execute("drop trigger users_erase_custom on users")
    op.execute("drop function erase_custom_fields()")
    op.drop_column("users", "custom")
