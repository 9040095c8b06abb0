"""The indexer: keeps the documents of search up to date, as a reader of the event log with a cursor of its own.

Posting writes nothing for search. A document is written again once for a burst of messages, because each write
repeats all of its terms in the index. Until then, search looks at the newer messages directly (`finding.py`). One
process indexes at a time: the one that holds the lock of the progress. Conversations that were there before are
indexed backwards from the newest one, in batches; progress and documents are one transaction.

Both are in unlogged tables: what can be made again from the messages needs no write-ahead log, which would cost several
times that of posting. A crash of PostgreSQL empties them together, and all conversations are indexed again.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.changes import EventsMissing, read_changes
from services.conversations.messaging.entries import keep_conversations
from services.conversations.search.documents import Document, Stored, build, text_of
from services.conversations.search.words import terms
from shared.database.engine import Driver
from shared.database.errors import is_outage
from shared.database.transactions import SessionFactory, fetch_alone, transaction, transaction_driver
from shared.events import EventType

SETTLE: Final = 15.0  # seconds that a conversation's messages are collected before it is indexed
MAX_WAITING: Final = 100  # events that wait for that, because search looks at each of their conversations
BATCH: Final = 100  # conversations indexed in one transaction
CHUNK: Final = 20  # conversations read at once
MAX_MESSAGES: Final = 300  # of a conversation, read at once; more than a document has
MAX_CHARACTERS: Final = 200_000  # between two statements: PostgreSQL ends a transaction that does nothing for 10 s
COUNT_LIMIT: Final = 10_000  # of the conversations that are left to fill
LATEST: Final = 1_000  # events whose conversations are indexed first after a crash: these may be old ones
LATE: Final = 60.0  # seconds that an event waits for the indexer, after which it is late
MAX_NOTE_TERMS: Final = 30_000  # of a conversation
MESSAGE_TYPES: Final = (EventType.CONVERSATION_CREATED, EventType.MESSAGE_POSTED, EventType.MESSAGE_REMOVED)
NOTE_TYPES: Final = (EventType.NOTE_POSTED, EventType.NOTE_DELETED)
INDEXED_TYPES: Final = (*MESSAGE_TYPES, *NOTE_TYPES)

log = structlog.get_logger()


class State(NamedTuple):
    """The indexer's state: the age of the oldest message that is not indexed, in seconds, and parked conversations.

    `reason` is the error of the one that was parked last. `filled` and `left` count the conversations that the fill
    has indexed, and has not, up to 10,000 of these.
    """

    lag: float
    parked: int
    reason: str | None
    is_filling: bool
    filled: int
    left: int


async def index_round(sessions: SessionFactory, *, settle: float = SETTLE) -> int:
    """Index what the log has new, else the next batch of the fill; return the number of conversations."""
    if not await fetch_alone(sessions, f"{_NEXT_WORK} union all {_IS_EMPTIED}", settle, MAX_WAITING):
        return 0
    async with transaction(sessions) as session:
        driver = await transaction_driver(session)
        if await driver.fetchval(_BEGIN_AGAIN, LATEST):
            log.warning("PostgreSQL crashed or was restored without unlogged tables, indexing all conversations again")
        progress = await driver.fetchrow(_LOCK, settle, MAX_WAITING)
        if progress is None:  # another process holds the lock, or has done it
            return 0
        return await (_index_new if progress["has_news"] else _fill)(driver, progress)


async def read_state(session: AsyncSession) -> State:
    """Return the indexer's state."""
    return State._make(await (await transaction_driver(session)).fetchrow(_STATE))  # type: ignore[arg-type] # one row


async def forget_message(session: AsyncSession, conversation_id: UUID, number: int) -> None:
    """Remove the terms of a message whose text is removed, and those of later messages.

    Append an event of `MESSAGE_TYPES` in the same transaction: until it is indexed, search looks at these messages
    directly.
    """
    await (await transaction_driver(session)).execute(_FORGET, conversation_id, number)


async def forget_notes(session: AsyncSession, conversation_id: UUID) -> None:
    """Remove the terms of a conversation's notes. Append an event of `NOTE_TYPES` in the same transaction."""
    await (await transaction_driver(session)).execute(_FORGET_NOTES, [conversation_id])


async def index_conversations(driver: Driver, ids: Sequence[UUID]) -> None:
    """Write the documents of conversations, within a transaction. Park those that cannot be indexed."""
    try:
        async with driver.transaction():
            # Before their documents, as a deletion or a removal does.
            await keep_conversations(driver, ids)
            await _write(driver, ids)
    except Exception as error:
        if is_outage(error):
            raise
        if len(ids) > 1:
            for conversation_id in sorted(ids):
                await index_conversations(driver, [conversation_id])
            return
        log.warning("conversation not indexed", conversation_id=str(ids[0]), error=type(error).__name__)
        await driver.execute(_PARK, ids[0], type(error).__name__)


async def _index_new(driver: Driver, progress: Any) -> int:
    """Index the conversations of the next events; return how many."""
    try:
        changes = await read_changes(driver, progress["position"], INDEXED_TYPES, limit=BATCH)
    except EventsMissing as missing:  # purged while no indexer ran
        log.warning("events were purged before they were indexed, indexing all conversations again")
        await driver.execute(_FILL_AGAIN, missing.position)
        return 0
    if changes.removed_from:  # also if the text was indexed while it was removed
        await keep_conversations(driver, changes.conversation_ids)  # all, before they are indexed
        await driver.execute(_FORGET_ALL, changes.removed_from)
    if changes.conversation_ids:
        await index_conversations(driver, changes.conversation_ids)
    await driver.execute(_ADVANCE, changes.position)
    return len(changes.conversation_ids)


async def _fill(driver: Driver, progress: Any) -> int:
    """Index the next conversations of the fill; return how many."""
    ids = [row["id"] for row in await driver.fetch(_NEXT, progress["fill_before"], BATCH)]
    if ids:
        await index_conversations(driver, ids)
    await driver.execute(_FILLED, ids[-1] if len(ids) == BATCH else None, len(ids))
    return len(ids)


async def _write(driver: Driver, ids: Sequence[UUID]) -> None:
    remaining = list(ids)
    while remaining:
        chunk, remaining = remaining[:CHUNK], remaining[CHUNK:]
        documents, characters = list[tuple[UUID, Document]](), 0
        for conversation_id, rows in groupby(await driver.fetch(_READ, chunk, MAX_MESSAGES), key=itemgetter("id")):
            messages = list(rows)
            documents += [(conversation_id, document) for document in _build(messages)]
            characters += sum(len(message["body"] or "") for message in messages)
            if characters > MAX_CHARACTERS:
                await _save(driver, documents)
                documents, characters = [], 0
            if len(messages) == MAX_MESSAGES:
                remaining.append(conversation_id)
        await _save(driver, documents)
    await _write_notes(driver, ids)
    await driver.execute(_UNPARK, list(ids))


async def _write_notes(driver: Driver, ids: Sequence[UUID]) -> None:
    notes = {row["conversation_id"]: row["text"] for row in await driver.fetch(_READ_NOTES, ids)}
    documents = [text_of(sorted(terms(text))[:MAX_NOTE_TERMS]) for text in notes.values()]
    if notes:
        await driver.execute(_WRITE_NOTES, list(notes), documents)
    if missing := [conversation_id for conversation_id in ids if conversation_id not in notes]:
        await driver.execute(_FORGET_NOTES, missing)


async def _save(driver: Driver, documents: Sequence[tuple[UUID, Document]]) -> None:
    for statement, are_appended in ((_APPEND, True), (_WRITE, False)):
        chosen = [each for each in documents if (each[1].after is not None) is are_appended]
        if chosen:
            columns = zip(*((conversation_id, *document) for conversation_id, document in chosen), strict=True)
            await driver.execute(statement, *map(list, columns))


def _build(rows: Sequence[Any]) -> Iterator[Document]:
    first = rows[0]
    messages = [(row["number"], row["body"]) for row in rows if row["number"] is not None]
    stored = Stored(first["first_number"], first["last_number"], first["size"]) if first["size"] is not None else None
    return build(heading_of(first["subject"], first["order_number"]), messages, stored)


def heading_of(subject: str, order_number: str | None) -> str:
    """Return the text of a conversation that is not in a message."""
    return f"{subject}\n{order_number or ''}"


_NEXT_WORK = """
    select progress.position, progress.fill_before, news.are_due as has_news
    from search_progress as progress cross join lateral (
        select exists (
            select from events where position > progress.position
                and numbered_at <= clock_timestamp() - make_interval(secs => $1::float8)
        ) or (select count(*) from (select from events where position > progress.position limit $2) as next) >= $2
            as are_due
    ) as news
    where news.are_due or progress.fill_before is not null
"""
_IS_EMPTIED = "select null, null, null where not exists (select from search_progress)"
_LOCK = f"{_NEXT_WORK} for update of progress skip locked"
_BEGIN_AGAIN = """
    insert into search_progress (position, fill_before)
    select
        greatest(head - $1, coalesce((select min(position) - 1 from events), head)),
        'ffffffff-ffff-ffff-ffff-ffffffffffff'
    from feed where not exists (select from search_progress)
    on conflict do nothing returning true
"""
_ADVANCE = "update search_progress set position = $1"
_FILL_AGAIN = """
    update search_progress set position = $1, filled = 0, fill_before = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
"""
_NEXT = "select id from conversations where id < $1 order by id desc limit $2"
_FILLED = "update search_progress set fill_before = $1, filled = filled + $2"
_PARK = """
    insert into search_parked (conversation_id, reason) select id, $2 from conversations where id = $1 for key share
    on conflict (conversation_id) do update set reason = excluded.reason, parked_at = clock_timestamp()
"""
_FORGET = "delete from conversation_search where conversation_id = $1 and last_number >= $2"
_FORGET_ALL = "delete from conversation_search where conversation_id = any($1::uuid[])"
_FORGET_NOTES = "delete from note_search where conversation_id = any($1::uuid[])"
_UNPARK = "delete from search_parked where conversation_id = any($1::uuid[])"

# The messages after those of a conversation's latest document.
_READ = """
    select c.id, c.subject, o.number as order_number, latest.first_number, latest.last_number, latest.size,
        m.number, m.body
    from conversations as c
        left join orders as o on o.id = c.order_id
        left join lateral (
            select first_number, last_number, length(tsv) as size from conversation_search
            where conversation_id = c.id order by first_number desc limit 1
        ) as latest on true
        left join lateral (
            select number, body from messages
            where conversation_id = c.id and number > coalesce(latest.last_number, 0) order by number limit $2
        ) as m on true
    where c.id = any($1::uuid[])
    order by c.id, m.number
"""
_DOCUMENTS = """
    unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::int[])
        as new (conversation_id, first_number, last_number, tsv, after)
"""
_APPEND = f"""
    update conversation_search as document
    set last_number = new.last_number, tsv = document.tsv || new.tsv::tsvector
    from {_DOCUMENTS}
    where document.conversation_id = new.conversation_id and document.first_number = new.first_number
        and document.last_number = new.after
"""  # noqa: S608 - built from constants
# The lock excludes a concurrent deletion of the conversation, with which its documents are deleted.
_WRITE = f"""
    insert into conversation_search (conversation_id, first_number, last_number, tsv)
    select c.id, new.first_number, new.last_number, new.tsv::tsvector
    from {_DOCUMENTS} join conversations as c on c.id = new.conversation_id
    for key share of c
    on conflict (conversation_id, first_number) do update set last_number = excluded.last_number, tsv = excluded.tsv
"""  # noqa: S608 - built from constants
# Without those whose text was deleted, and without those of other kinds.
_READ_NOTES = """
    select conversation_id, string_agg(data ->> 'body', chr(10) order by id) as text
    from conversation_entries
    where conversation_id = any($1::uuid[]) and kind = 'note' and data ? 'body' group by conversation_id
"""
_WRITE_NOTES = """
    insert into note_search (conversation_id, tsv)
    select c.id, document.tsv::tsvector
    from unnest($1::uuid[], $2::text[]) as document (conversation_id, tsv)
        join conversations as c on c.id = document.conversation_id
    for key share of c
    on conflict (conversation_id) do update set tsv = excluded.tsv
"""
_TYPES = ", ".join(f"'{kind}'" for kind in INDEXED_TYPES)
_STATE = f"""
    select
        coalesce((
            select extract(epoch from clock_timestamp() - occurred_at)::float8
            from events where position > progress.position and type in ({_TYPES}) order by position limit 1
        ), 0) as lag,
        (select count(*) from search_parked) as parked,
        (select reason from search_parked order by parked_at desc limit 1) as reason,
        progress.fill_before is not null as is_filling,
        progress.filled,
        (
            select count(*)
            from (select from conversations where id < progress.fill_before limit {COUNT_LIMIT}) as unfilled
        ) as unfilled
    from (
        select position, fill_before, filled from search_progress
        union all select 0, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 0 where not exists (select from search_progress)
    ) as progress
"""  # noqa: S608 - built from constants
