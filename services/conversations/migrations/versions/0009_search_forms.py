"""Ignore case, accents and quote styles in searches."""

from collections.abc import Sequence

from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The collation is PostgreSQL's own: the same in every database, regardless of its locale. In decomposed text an
# accent is a character of its own and can be removed, like soft hyphens and zero-width characters.
_SEARCH_FORM = r'''
create function search_form(text) returns text language sql immutable strict parallel safe return
    replace(replace(translate(
        regexp_replace(regexp_replace(
            casefold(
                normalize(
                    translate(
                        $1,
                        U&'\2018\2019\201b\02bc\2032\00b4\0060\201c\201d\201e\2010\2011\2012\2013\2014\2212',
                        U&'\0027\0027\0027\0027\0027\0027\0027"""------'
                    ),
                    NFKD
                ) collate "pg_unicode_fast"
            ),
            '[\u0300-\u036f\u00ad\u200b-\u200f\u2060\ufeff]', '', 'g'
        ), ' +', ' ', 'g'),
        U&'\00f8\0142\0111\0131', 'oldi'
    ), U&'\00e6', 'ae'), U&'\0153', 'oe')
'''
_USER_SEARCH_FORM = """
create function search_form(name text, email text, id text) returns text language sql immutable parallel safe return
    search_form(coalesce(name, '') || chr(10) || coalesce(email, '') || chr(10) || id)
"""
_ORDER_NUMBER = "left(ltrim(search_form(number), '# '), 255)"


def upgrade() -> None:
    op.execute(_SEARCH_FORM)
    op.execute(_USER_SEARCH_FORM)
    op.execute("create index users_search_form_idx on users using gin (search_form(name, email, id) gin_trgm_ops)")
    op.drop_index("users_search_idx", table_name="users")
    op.execute(f"create index orders_search_form_idx on orders (({_ORDER_NUMBER}))")
    op.drop_index("orders_number_idx", table_name="orders")


def downgrade() -> None:
    op.create_index("orders_number_idx", "orders", ["number"])
    op.drop_index("orders_search_form_idx", table_name="orders")
    op.create_index(
        "users_search_idx",
        "users",
        ["name", "email", "id"],
        postgresql_using="gin",
        postgresql_ops=dict.fromkeys(("name", "email", "id"), "gin_trgm_ops"),
    )
    op.drop_index("users_search_form_idx", table_name="users")
    op.execute("drop function search_form(text, text, text)")
    op.execute("drop function search_form(text)")
