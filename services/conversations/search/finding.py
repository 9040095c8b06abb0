"""Find conversations, latest activity first, in time that does not grow with their number.

A common word is found by looking at the newest conversations (`walked`). If these do not fill the page, they tell how
common it is: a search that expects to fill it sooner so looks at more of them (`further`), and another reads all
conversations that have the word from the index (`indexed`). Many of these are put into order by going through the
newest conversations (`recent`); few of them, or old ones, are sorted (`older`). Conversations that the indexer has
not caught up with are looked at directly (`direct`), with the terms of their newer messages; so are those of
customers whom an admin finds by name, address or id. One statement reads the newer messages, a second does the rest.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Final, NamedTuple
from uuid import UUID

from services.conversations.errors import SearchTooSlow
from services.conversations.messaging.listing import (
    BY_ACTIVITY,
    Filters,
    PageSql,
    activity_cursor,
    conversations_sql,
    cursor_binding,
    rows_to_fetch,
)
from services.conversations.records import ConversationDetail
from services.conversations.rules import Side
from services.conversations.search.documents import text_of
from services.conversations.search.excerpts import Match, find_match
from services.conversations.search.indexer import INDEXED_TYPES, MESSAGE_TYPES, heading_of
from services.conversations.search.query import SearchQuery
from services.conversations.search.sources import NotesSql, PeopleSql
from services.conversations.search.words import terms
from shared.database.reader import Reader, fetch_with_custom_plan

DEADLINE: Final = 3.0  # seconds
WALK: Final = 2_000  # newest conversations that are looked at one by one
WALK_ON: Final = 10_000  # the same if that takes less than the index, or `ENOUGH` have what the index does not
ENOUGH: Final = 5
LOOK: Final = 2.0  # the time that looking at a conversation takes, in that of reading one from the index
MANY: Final = 1_000  # conversations of the index that are not sorted, but searched for the `RECENT` newest ones
RECENT: Final = 20_000
WALK_OF_FEW: Final = 10_000  # the same if filters select those of a customer, or about an order
WALK_WITHOUT: Final = 20_000  # the same if all terms are negated, which the index does not serve
PENDING: Final = 500  # messages that are looked at directly
ROUNDS: Final = 4  # until a page is full, if conversations turn out not to have a phrase


class Found(NamedTuple):
    """A conversation that was found, and why."""

    detail: ConversationDetail
    match: Match


class FoundPage(NamedTuple):
    """A page of what was found, and the cursor of the next.

    It is not complete while the indexer goes through all conversations: those that it has not reached are not found.
    """

    found: list[Found]
    next_cursor: str | None
    is_complete: bool


class _Pending(NamedTuple):
    """A conversation with messages that are not indexed yet, newest first, and their terms."""

    messages: list[tuple[int, str]]
    terms: set[str]


async def find_conversations(
    reader: Reader, query: SearchQuery, filters: Filters, side: Side, cursor: str | None, limit: int
) -> FoundPage:
    """Return a page of the conversations that have all terms. Raises `SearchTooSlow`."""
    binding = (*cursor_binding("search", side, filters), tuple(query.terms))
    try:
        async with asyncio.timeout(DEADLINE):
            return await _find(reader, query, filters, side, cursor, limit, binding)
    except TimeoutError:
        raise SearchTooSlow from None


async def _find(
    reader: Reader,
    query: SearchQuery,
    filters: Filters,
    side: Side,
    cursor: str | None,
    limit: int,
    binding: Hashable,
) -> FoundPage:
    pending, is_complete = await _read_pending(reader, filters.user_id if side is Side.CUSTOMER else None)
    wanted = rows_to_fetch(limit)
    if any(len(term.words) > 1 for term in query.wanted):
        wanted += wanted // 4  # some may not have the phrase, and a second round takes as long as the first
    found: list[Found] = []
    for _ in range(ROUNDS):
        page = PageSql(filters, side)
        if cursor is not None:
            page.start_after(cursor, binding)
        statement = _Statement(page, query, side, pending, filters, wanted).sql()
        rows = await fetch_with_custom_plan(reader, statement, *page.values) if query.terms else []
        for index, row in enumerate(rows):
            if len(found) == limit:
                last = activity_cursor(binding, ConversationDetail.of(rows[index - 1])) if index else cursor
                return FoundPage(found, last, is_complete)
            detail = ConversationDetail.of(row)
            number, body, notes, custom, merged_ids = row[-5:]
            newer = pending[detail.conversation.id].messages if detail.conversation.id in pending else []
            messages = newer if body is None else [*newer, (number, body)]
            if match := find_match(query, detail, messages, _notes(notes), side, custom, merged_ids):
                found.append(Found(detail, match))
        if len(rows) < wanted:
            return FoundPage(found, None, is_complete)
        cursor = activity_cursor(binding, ConversationDetail.of(rows[-1]))
    return FoundPage(found, cursor, is_complete)


async def _read_pending(reader: Reader, customer: str | None) -> tuple[dict[UUID, _Pending], bool]:
    """Return the conversations that the indexer has not caught up with, all or a customer's, and whether it is done.

    It is while it follows the log, and not while it goes through all conversations.
    """
    sql, values = (_PENDING, [PENDING]) if customer is None else (_PENDING_OF_CUSTOMER, [PENDING, customer])
    pending: dict[UUID, _Pending] = defaultdict(lambda: _Pending([], set()))
    is_done = True
    for conversation_id, subject, order_number, is_new, number, body in await reader.fetch(sql, *values):
        if conversation_id is None:
            is_done = False
            continue
        conversation = pending[conversation_id]
        if is_new:
            conversation.terms.update(terms(heading_of(subject, order_number)))
        if number is not None:
            conversation.messages.append((number, body))
        if body is not None:  # of a message, or of all notes
            conversation.terms.update(terms(body))
    return dict(pending), is_done


class _Statement:
    """The SQL of a page, with its parameters in `page`. A method for each step returns the SQL of its rows."""

    def __init__(
        self,
        page: PageSql,
        query: SearchQuery,
        side: Side,
        pending: dict[UUID, _Pending],
        filters: Filters,
        rows: int,
    ) -> None:
        self._page, self._query, self._side, self._rows = page, query, side, rows
        self._ids = page.bind(list(pending))
        self._documents = page.bind([text_of(conversation.terms) for conversation in pending.values()])
        self._people = PeopleSql(page, query.terms if side is Side.ADMIN else ())
        self._notes = NotesSql(page, query) if side is Side.ADMIN else None
        self._q = f"{page.bind(query.tsquery(self._people.markers))}::text::tsquery"
        self._walk = WALK_OF_FEW if filters.is_selective else WALK if query.wanted else WALK_WITHOUT
        self._first = f"order by {BY_ACTIVITY} limit {rows}"
        self._is_other = self._not_direct()

    def sql(self) -> str:
        """Return the whole statement."""
        steps = {
            "pending": self._pending(),
            "people": self._people.sql(),
            "noted": self._notes.sql if self._notes else _NO_NOTES,
            "near": _NEAR,
            "direct": self._direct(),
            "walked": self._walked(),
            "further": self._further(),
            "newest": "select * from walked union all select * from further",
            "indexed": self._indexed(),
            "recent": self._recent(),
            "older": self._older(),
        }
        return conversations_sql(
            f"with {', '.join(f'{name} as materialized ({sql})' for name, sql in steps.items())} {self._results()}",
            BY_ACTIVITY,
            "c.match_number",
            "c.match_body",
            "c.match_notes",
            "u.custom" if self._side is Side.ADMIN else "null::json",
            self._people.merged_ids,
            side=self._side,
        )

    def _pending(self) -> str:
        """Conversations with messages that are not indexed, and the terms of these."""
        arrays = f"{self._ids}::uuid[], {self._documents}::text[]"
        return f"select id, tsv::tsvector from unnest({arrays}) as pending (id, tsv)"  # noqa: S608 - placeholders

    def _direct(self) -> str:
        """Those of `near` that have all terms."""
        notes = "note_search" if self._notes else "noted"
        return f"""
            select c.id, c.last_activity_at
            from (
                select c.* from near cross join lateral (
                    select * from conversations as c where c.id = near.id and {self._page.where()} limit 1
                ) as c
                order by {BY_ACTIVITY}
            ) as c
                left join pending on pending.id = c.id
                left join people on people.id = c.user_id
                left join {notes} as note on note.{"conversation_id" if self._notes else "id"} = c.id
                cross join lateral (
                    select from (select) as one
                        left join conversation_search as document on document.conversation_id = c.id
                    where ({self._people.added_to(_ALL_TERMS)}) @@ {self._q} limit 1
                ) as matching
            {self._first}
        """  # noqa: S608 - built from constants

    def _not_direct(self) -> str:
        """Return the condition of conversations that `direct` does not decide about."""
        condition = "c.id not in (select id from pending)"
        if any(term.is_negated for term in self._query.terms):
            without = " & ".join(f"!{marker}" for marker in self._people.negated) or "!none"
            condition += " and c.id not in (select id from noted) and c.user_id not in (select id from people)"
            condition += f" and {self._people.added_to(_NOTHING)} @@ {self._page.bind(without)}::text::tsquery"
        return condition

    def _walked(self) -> str:
        """Those of the newest conversations that have all terms."""
        return self._looked_at(self._page.sql(BY_ACTIVITY, self._walk), "true", str(self._rows))

    def _further(self) -> str:
        """The same of the next ones, if that is expected to fill the page sooner than the index, or only that can."""
        if self._walk >= WALK_ON:
            return _NOTHING_FOUND
        found = "(select count(*) from walked)"
        missing = f"({self._rows} - {found})"
        looks = f"{LOOK} * {missing} * {self._walk} / nullif({found}, 0)"
        reads = f"{found} * {_DOCUMENTS} / {self._walk}"
        are_not_indexed = " or ".join((self._people.are_compared, *([self._notes.are_joined] if self._notes else [])))
        is_better = f"({looks} < {reads} or {found} >= {ENOUGH} and ({are_not_indexed}))"
        next_ones = f"{self._page.sql(BY_ACTIVITY, WALK_ON)} offset {self._walk}"
        return self._looked_at(next_ones, f"{missing} > 0 and {is_better}", missing)

    def _looked_at(self, conversations: str, condition: str, limit: str) -> str:
        notes = self._notes
        document = self._people.added_to(notes.added if notes else "document.tsv")
        return f"""
            select c.id, c.last_activity_at
            from ({conversations}) as c cross join lateral (
                select from conversation_search as document {notes.joined if notes else ""}
                where document.conversation_id = c.id and {document} @@ {self._q} limit 1
            ) as matching
            where {self._is_other} and {condition}
            order by {BY_ACTIVITY} limit {limit}
        """  # noqa: S608 - built from constants

    def _indexed(self) -> str:
        """All conversations that have the terms, unless the newest ones fill the page or are all that match."""
        # Few conversations may match the filters, and very many the word.
        is_beyond = f"exists ({self._page.sql(BY_ACTIVITY, self._walk)} offset {self._walk - 1})"
        is_unfilled = f"(select count(*) from newest) < {self._rows} and {is_beyond}"  # noqa: S608 - built from constants
        condition = is_unfilled if self._query.wanted else "false"
        return f"select conversation_id from find_documents({self._q}) as conversation_id where {condition}"  # noqa: S608 - as above

    def _recent(self) -> str:
        """Those of the newest conversations that are in `indexed`, if this has many."""
        # `is true` keeps PostgreSQL from a join, which would read all of the newest ones instead of a page.
        return f"""
            select c.id, c.last_activity_at from ({self._page.sql(BY_ACTIVITY, RECENT)}) as c
            where (c.id in (select conversation_id from indexed)) is true and {self._is_other}
                and (select count(*) from indexed) >= {MANY}
            {self._first}
        """  # noqa: S608 - built from constants

    def _older(self) -> str:
        """The newest of `indexed` that match the filters, unless `recent` fills the page."""
        return f"""
            select distinct c.id, c.last_activity_at
            from indexed
                cross join lateral (select * from conversations where id = indexed.conversation_id limit 1) as c
            where {self._page.where()} and {self._is_other} and (select count(*) from recent) < {self._rows}
            {self._first}
        """  # noqa: S608 - built from constants

    def _results(self) -> str:
        """The conversations of the page, each with the message that has most of the terms."""
        lexemes = [term.lexemes() for term in self._query.wanted]
        whole = self._page.bind(sorted(set[str]().union(*(whole for whole, _ in lexemes))))
        beginnings = self._page.bind(sorted(set[str]().union(*(beginnings for _, beginnings in lexemes))))
        return f"""
            select c.*, best.number as match_number, message.body as match_body,
                {_NOTES if self._notes else "null"} as match_notes
            from conversations as c
                left join lateral (
                    select document.first_number + position - 2 as number
                    from conversation_search as document, unnest(document.tsv) as term,
                        unnest(term.positions) as position
                    where document.conversation_id = c.id and position > 1
                        and (term.lexeme = any({whole}::text[]) or term.lexeme ^@ any({beginnings}::text[]))
                    group by 1 order by count(*) desc, 1 desc limit 1
                ) as best on true
                left join messages as message on message.conversation_id = c.id and message.number = best.number
            where c.id in (
                select c.id
                from (
                    select * from direct union select * from newest union select * from recent
                    union select * from older
                ) as c {self._first}
            )
        """  # noqa: S608 - built from constants


def _notes(aggregated: str | None) -> list[tuple[UUID, str]]:
    return [(UUID(note_id), body) for note_id, body in json.loads(aggregated)] if aggregated else []


# PostgreSQL's estimate, which is -1 for a new table.
_DOCUMENTS = "(select greatest(reltuples, 1) from pg_class where oid = 'conversation_search'::regclass)"
_NOTHING = "''::tsvector"
_ALL_TERMS = " || ".join(f"coalesce({name}.tsv, '')" for name in ("document", "pending", "people", "note"))
_NO_NOTES = "select null::uuid as id, ''::tsvector as tsv where false"
_NOTHING_FOUND = "select null::uuid as id, null::timestamptz as last_activity_at where false"
# Conversations that may have the terms outside of their documents.
_NEAR = """
    select id from pending union select id from noted
    union select c.id from people join conversations as c on c.user_id = people.id
"""
# Those of a conversation that was found, newest first.
_NOTES = """(
    select json_agg(json_build_array(id, body))::text
    from (
        select id, data ->> 'body' as body from conversation_entries
        where conversation_id = c.id and kind = 'note' and data ? 'body' order by at desc, id desc limit 100
    ) as notes
)"""


def _pending_sql(types: Iterable[str], scope: str, notes: str = "") -> str:
    """Return the SQL of the messages and notes that are newer than their documents.

    These are of the newest events that the indexer has not read. An event of a conversation without a document makes a
    row without a message, for the subject; all notes of a conversation are one row. A row without a conversation says
    that the indexer goes through all of them.
    """
    quoted_types = ", ".join(f"'{kind}'" for kind in types)
    newest = f"type in ({quoted_types}) and {scope}"
    return f"""
with progress as (select coalesce((select position from search_progress), 0) as position),
newest as materialized (
    (
        select conversation_id from events
        where position > (select position from progress) and {newest} order by position desc limit $1
    )
    union all
    (select conversation_id from events where position is null and {newest} order by seq desc limit $1)
),
waiting as materialized (select distinct conversation_id from newest)
(
    select c.id, c.subject, o.number as order_number, indexed.last_number is null as is_new, m.number, m.body
    from waiting
        join conversations as c on c.id = waiting.conversation_id
        left join orders as o on o.id = c.order_id
        left join lateral (
            select max(last_number) as last_number from conversation_search where conversation_id = c.id
        ) as indexed on true
        left join lateral (
            select number, body from messages
            where conversation_id = c.id and number > coalesce(indexed.last_number, 0) order by number desc limit 200
        ) as m on true
    where indexed.last_number is null or m.number is not null
    order by c.id, m.number desc limit $1
)
{notes}
union all
select null, null, null, false, null, null
where not exists (select from search_progress where fill_before is null)
"""  # noqa: S608 - built from constants


_PENDING = _pending_sql(
    INDEXED_TYPES,
    "true",
    """
    union all
    select e.conversation_id, null, null, false, null, string_agg(e.data ->> 'body', chr(10))
    from waiting join conversation_entries as e on e.conversation_id = waiting.conversation_id
    where e.kind = 'note' and e.data ? 'body' group by e.conversation_id
    """,
)
_PENDING_OF_CUSTOMER = _pending_sql(MESSAGE_TYPES, "user_id = $2")
