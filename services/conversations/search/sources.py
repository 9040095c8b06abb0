"""The SQL by which an admin's search finds what is in no document: customers and notes."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from services.conversations.messaging.listing import PageSql
from services.conversations.messaging.queries import search_pattern_sql
from services.conversations.models import CUSTOM_SEARCH_FORM, USER_SEARCH_FORM
from services.conversations.search.query import SearchQuery, Term, quoted

PEOPLE: Final = 300  # customers whom the index may find
NOTED: Final = 1_000  # conversations whose notes the index may find
MIN_PERSON: Final = 3  # characters that the index of customers can find


class _Comparison(NamedTuple):
    """A term that may find customers: its lexeme, and the SQL of the pattern and of whose merged id it is."""

    marker: str
    pattern: str
    person: str


class PeopleSql:
    """The SQL by which an admin's terms find customers. A customer has a lexeme for each term that finds them.

    A term finds them by a part of their name, address, id or a field of the store's own, or by a whole id that was
    merged into theirs. `merged_ids` is the SQL of such ids, of the user `u`. `are_compared` is the SQL of whether the
    index does not find all customers.

    In documents, these lexemes never occur. An index serves terms of three characters and more; comparing a customer
    takes a tenth of a millisecond. So shorter terms, and terms that find too many customers, are compared only with the
    customers of the conversations that are looked at, and without regard to case but to accents.
    """

    def __init__(self, page: PageSql, searched: Sequence[Term]) -> None:
        self.markers = [f"={index}" for index in range(len(searched))]
        self.negated = [quoted(marker) for term, marker in zip(searched, self.markers, strict=True) if term.is_negated]
        self._all, self._indexed = [], []  # type: list[_Comparison], list[_Comparison]
        typed = page.bind([term.text for term in searched])
        theirs = f"select id from users where merged_into = u.id and id = any({typed}::text[])"  # noqa: S608 - a placeholder
        self.merged_ids = f"array({theirs} order by array_position({typed}::text[], id))"
        for term, marker in zip(searched, self.markers, strict=True):
            if len(term.text) == 1:  # every name has it
                continue
            text = page.bind(term.text)
            person = f"(select merged_into from users where id = {text})"  # noqa: S608 - a placeholder
            compared = _Comparison(marker, search_pattern_sql(text), person)
            self._all.append(compared)
            if len(term.text) >= MIN_PERSON:
                self._indexed.append(compared)
        are_too_many = f"(select count(*) from people) > {PEOPLE}"  # noqa: S608 - a constant
        self.are_compared = "true" if len(self._all) > len(self._indexed) else are_too_many

    def sql(self) -> str:
        """Return the SQL of the customers that the index finds, with their lexemes."""
        if not self._indexed:
            return "select ''::text as id, ''::tsvector as tsv where false"
        named, custom = (
            " or ".join(f"{form} like {compared.pattern}" for compared in self._indexed)
            for form in (USER_SEARCH_FORM, CUSTOM_SEARCH_FORM)
        )
        persons = ", ".join(compared.person for compared in self._indexed)
        form = f"concat_ws(chr(10), {USER_SEARCH_FORM}, {CUSTOM_SEARCH_FORM})"
        return f"""
            select id, {_lexemes(self._indexed)} as tsv
            from (
                select id, {form} as form from users where id in (
                    (select id from users where deleted_at is null and id in ({persons}))
                    union all
                    (select id from users where deleted_at is null and ({named}) limit {PEOPLE + 1})
                    union all (
                        select id from users where custom is not null and deleted_at is null and ({custom})
                        limit {PEOPLE + 1}
                    )
                )
            ) as found
        """  # noqa: S608 - built from constants

    def added_to(self, document: str) -> str:
        """Return the SQL of a document, with the lexemes of its conversation's customer if the index does not tell."""
        if not self._all:
            return document
        return f"""case when {self.are_compared} then {document} || coalesce((
            select {_lexemes(self._all)}
            from (
                select id, concat_ws(chr(10), lower(concat_ws(chr(10), name, email, id)), {CUSTOM_SEARCH_FORM}) as form
                from users
                where id = c.user_id and deleted_at is null offset 0
            ) as customer
        ), '') else {document} end"""  # noqa: S608 - built from constants


class NotesSql:
    """The SQL by which an admin's terms find notes. With too many of these, only the newest conversations count."""

    def __init__(self, page: PageSql, query: SearchQuery) -> None:
        any_term = page.bind(" | ".join(term.tsquery() for term in query.terms))
        self.sql = f"select id from find_notes({any_term}::text::tsquery, {NOTED + 1}) as id"  # noqa: S608 - built from constants
        self.are_joined = f"(select count(*) from noted) > {NOTED}"  # noqa: S608 - a constant
        self.joined = f"left join note_search as note on {self.are_joined} and note.conversation_id = c.id"
        self.added = "case when note.tsv is null then document.tsv else document.tsv || note.tsv end"


def _lexemes(patterns: Sequence[_Comparison]) -> str:
    """Return the SQL of a customer's lexemes, from their id and `form`."""
    cases = ", ".join(
        f"case when form like {compared.pattern} or id = {compared.person} then '{compared.marker}' end"
        for compared in patterns
    )
    return f"array_to_tsvector(array_remove(array[{cases}], null))"
