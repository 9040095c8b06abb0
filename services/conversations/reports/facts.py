"""The fact rows of reports, kept up to date by a reader of the event log with a cursor of its own.

Posting writes nothing for reports. The log only says which conversations changed; the facts come from their messages
and changes of the status, so that a repeated or late event changes nothing. A conversation is read from where its
latest cycle ends, and as a whole after a message was removed. What was there before the migration is read backwards
from the newest conversation. Rows hold no text and no customer, and outlive their conversation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.changes import EventsMissing, read_changes
from services.conversations.reports.cycles import Cycle, Step, advance
from services.conversations.rules import ACTIVE, EntryKind, Side, Status
from shared.database.engine import Driver
from shared.database.transactions import SessionFactory, fetch_alone, transaction, transaction_driver
from shared.events import EventType

BATCH: Final = 200  # conversations in one transaction
MAX_MESSAGES: Final = 1_000  # of a conversation, read at once
MAX_BEHIND: Final = 20  # messages that are read again rather than written as counted
LATE: Final = 300.0  # seconds that an event waits for its fact, after which reports are late
COUNT_LIMIT: Final = 10_000  # of the conversations that are left to fill
_TYPES: Final = (
    EventType.CONVERSATION_CREATED,
    EventType.MESSAGE_POSTED,
    EventType.MESSAGE_REMOVED,
    EventType.CONVERSATION_UPDATED,
)

log = structlog.get_logger()


class State(NamedTuple):
    """How far the facts are: the age of the oldest event without one, in seconds; the first fill as in search."""

    lag: float
    is_filling: bool
    filled: int
    left: int


async def count_round(sessions: SessionFactory) -> int:
    """Make the facts of what the log has new, else of the next conversations of the first fill; return how many.

    One process at a time: the one that holds the lock of the progress.
    """
    if not await fetch_alone(sessions, _HAS_WORK):
        return 0
    async with transaction(sessions) as session:
        driver = await transaction_driver(session)
        progress = await driver.fetchrow(_LOCK)
        if progress is None:  # another process holds the lock, or has done it
            return 0
        return await (_count_new if progress["has_news"] else _fill)(driver, progress)


async def read_state(session: AsyncSession) -> State:
    """Return how far the facts are."""
    return State._make(await (await transaction_driver(session)).fetchrow(_STATE))  # type: ignore[arg-type] # one row


async def _count_new(driver: Driver, progress: Any) -> int:
    """Make the facts of the conversations of the next events; return how many conversations."""
    try:
        changes = await read_changes(driver, progress["position"], _TYPES, limit=BATCH)
    except EventsMissing as missing:  # purged while no process counted
        log.warning("events were purged before they were counted, counting all conversations again")
        await driver.execute(_FILL_AGAIN, missing.position)
        return 0
    if changes.removed_from:
        await driver.execute(_FORGET, changes.removed_from)
    await _count(driver, changes.conversation_ids)
    await driver.execute(_ADVANCE, changes.position)
    return len(changes.conversation_ids)


async def _fill(driver: Driver, progress: Any) -> int:
    """Make the facts of the next conversations of the first fill, and set what they lack; return how many."""
    ids = [row["id"] for row in await driver.fetch(_NEXT, progress["fill_before"], BATCH)]
    await _count(driver, ids)
    await driver.execute(_SET_FIRST_REPLY, ids)
    await driver.execute(_FILLED, ids[-1] if len(ids) == BATCH else None, len(ids))
    return len(ids)


async def _count(driver: Driver, ids: Sequence[UUID]) -> None:
    """Bring the facts of conversations up to date, within a transaction. Skips those that were deleted meanwhile."""
    remaining = list(ids)
    while remaining:
        cycles: list[tuple[UUID, Cycle]] = []
        rows = await driver.fetch(_READ, remaining, MAX_MESSAGES)
        remaining = []
        for conversation_id, group in groupby(rows, key=itemgetter("id")):
            steps = list(group)
            is_part = sum(row["side"] is not None for row in steps) == MAX_MESSAGES
            if is_part:
                remaining.append(conversation_id)
            cycles += ((conversation_id, cycle) for cycle in _of_conversation(steps, is_part=is_part))
        if cycles:
            values = ([getattr(cycle, name) for _, cycle in cycles] for name in Cycle.__dataclass_fields__)
            await driver.execute(_WRITE, [conversation_id for conversation_id, _ in cycles], *values)


def _of_conversation(rows: Sequence[Any], *, is_part: bool) -> list[Cycle]:
    """Return the new and changed cycles of a conversation. With `is_part`, more messages follow."""
    first = rows[0]
    if first["cycle"] is None:
        opened_by = first["actor_id"] if first["is_admins"] else None
        latest = Cycle(1, 0, first["created_at"], opened_by)
    else:
        latest = Cycle(*(first[name] for name in Cycle.__dataclass_fields__))
    cycles = advance(latest, _steps(rows, is_part=is_part))
    last = cycles[-1]
    # Before the timeline nothing recorded changes of the status; `changed_at` is that of the last one, or a message's.
    if not is_part and last.resolved_at is None and first["status"] not in ACTIVE:
        cycles[-1] = replace(last, resolved_at=max(first["changed_at"], last.opened_at))
    is_known = first["cycle"] is not None and len(cycles) == 1
    if not is_part and is_known and cycles[0].number < latest.number + MAX_BEHIND:
        # Most messages change nothing but the number: they are neither a first reply nor the start of a cycle.
        return [cycle for cycle in cycles if replace(cycle, number=latest.number) != latest]
    return cycles


def _steps(rows: Sequence[Any], *, is_part: bool) -> Iterator[Step]:
    last = max((row["step_number"] for row in rows if row["side"] is not None), default=0)
    for row in rows:
        if row["step_number"] is None or (is_part and row["step_number"] >= last and row["side"] is None):
            continue  # no step, or one that is read again with the messages that follow
        yield Step(
            row["step_number"],
            row["at"],
            row["actor_id"],
            None if row["side"] is None else Side(row["side"]),
            row["removed"],
            None if row["new_status"] is None else Status(row["new_status"]),
        )


_HAS_WORK = """
    select progress.position, progress.fill_before, news.are_there as has_news
    from report_progress as progress cross join lateral (
        select exists (select from events where position > progress.position) as are_there
    ) as news
    where news.are_there or progress.fill_before is not null
"""
_LOCK = f"{_HAS_WORK} for update of progress skip locked"
_ADVANCE = "update report_progress set position = $1"
_FILL_AGAIN = """
    update report_progress set position = $1, filled = 0, fill_before = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
"""
_NEXT = "select id from conversations where id < $1 order by id desc limit $2"
# Conversations from before have no time of their first reply. Locked in the order that all locks of several use.
_SET_FIRST_REPLY = """
    with lacking as (
        select c.id, fact.replied_at
        from conversations as c join conversation_facts as fact on fact.conversation_id = c.id and fact.cycle = 1
        where c.id = any($1::uuid[]) and c.first_reply_at is null and fact.replied_at is not null
        order by c.id for no key update of c
    )
    update conversations set first_reply_at = replied_at from lacking where conversations.id = lacking.id
"""
_FILLED = "update report_progress set fill_before = $1, filled = filled + $2"
# Only those of conversations that are still there: what was counted of the others stays.
_FORGET = """
    delete from conversation_facts
    where conversation_id in (select id from conversations where id = any($1::uuid[]))
"""
_COLUMNS = ", ".join(Cycle.__dataclass_fields__)
# The latest fact of each conversation, and what follows it. An admin's first message opened the conversation unless it
# answered: then no customer had written, and the conversation was there before.
_READ = f"""
    select c.id, c.created_at, c.changed_at, c.status, fact.*, step.*,
        step.side = '{Side.ADMIN}' and step.step_number = 1 and c.first_reply_at is null as is_admins
    from conversations as c
        left join lateral (
            select {_COLUMNS} from conversation_facts where conversation_id = c.id order by cycle desc limit 1
        ) as fact on true
        left join lateral (
            (
                select number as step_number, 0 as rank, created_at as at, sender_id as actor_id, sender_role as side,
                    removed_at is not null as removed, null as new_status, id as step_id
                from messages where conversation_id = c.id and number > coalesce(fact.number, 0)
                order by number limit $2
            ) union all (
                select after_number, 1, at, actor_id, null, false, data ->> 'to', id
                from conversation_entries
                where conversation_id = c.id and kind = '{EntryKind.STATUS}'
                    and after_number >= coalesce(fact.number, 0)
            )
        ) as step on true
    where c.id = any($1::uuid[])
    order by c.id, step.step_number, step.rank, step.at, step.step_id
"""  # noqa: S608 - built from constants
_WRITE = f"""
    insert into conversation_facts (conversation_id, {_COLUMNS})
    select * from unnest(
        $1::uuid[], $2::int[], $3::int[], $4::timestamptz[], $5::text[], $6::timestamptz[], $7::text[],
        $8::timestamptz[], $9::text[]
    )
    on conflict (conversation_id, cycle) do update set number = excluded.number, replied_at = excluded.replied_at,
        replied_by = excluded.replied_by, resolved_at = excluded.resolved_at, resolved_by = excluded.resolved_by
    where (conversation_facts.*) is distinct from (excluded.*)
"""  # noqa: S608 - built from constants
_QUOTED = ", ".join(f"'{kind}'" for kind in _TYPES)
_STATE = f"""
    select
        coalesce((
            select extract(epoch from clock_timestamp() - numbered_at)::float8
            from events where position > progress.position and type in ({_QUOTED}) order by position limit 1
        ), 0) as lag,
        progress.fill_before is not null as is_filling,
        progress.filled,
        (
            select count(*)
            from (select from conversations where id < progress.fill_before limit {COUNT_LIMIT}) as unfilled
        ) as unfilled
    from report_progress as progress
"""  # noqa: S608 - built from constants
