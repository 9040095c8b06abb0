"""Erase deleted conversations and users: hide them at once, then erase their rows in batches.

Deleting a conversation deletes its row, without which no query finds its messages. A trigger adds an `Erasure` for the
messages and events that remain. A small deletion erases them in its own transaction. The jobs erase the rest, one
batch per transaction. Each batch commits its progress, so if a process dies another one continues.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import delete, exists, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.append import erase_conversations
from services.conversations.models import Attachment, ConversationEntry, Erasure, Message
from services.conversations.settings import JobsSettings
from shared.database import SessionFactory, fetch_alone, transaction
from shared.database_errors import is_outage
from shared.events import EventType
from shared.orm import any_of
from shared.problems import NotFound

BATCH = 1000  # rows of a kind erased in one transaction
HIDE_BATCH = 10_000  # conversations of a user hidden in one transaction
_SCAN_FACTOR = 5  # batches of events checked in one transaction of a scan through the whole log

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a user's erasure; `erased` counts rows, including those of conversations erased with the user.

    `counts` is what there was to erase, by kind, when `asked_by` asked for it.
    """

    id: UUID
    user_id: str
    content: bool
    erased: int
    asked_at: datetime
    finished_at: datetime | None
    asked_by: str | None
    counts: dict[str, int] | None


@dataclass(frozen=True, slots=True)
class State:
    """All unfinished erasures: their number, the rows erased so far, and the seconds since any of them advanced.

    The rows include those of conversations that are erased with a user, as in `Progress`.
    """

    under_way: int
    erased: int
    stalled_seconds: float


async def erase_if_small(session: AsyncSession, conversation_ids: Sequence[UUID], *, size: int = BATCH) -> int:
    """Erase the remaining rows of deleted conversations if these are at most `size`; return how many it erased."""
    if not 0 < len(conversation_ids) <= size:
        return 0
    rows: int = await session.scalar(_COUNT, {"ids": list(conversation_ids), "most": size + 1})
    if rows > size:
        return 0
    await session.execute(delete(Message).where(any_of(Message.conversation_id, conversation_ids)))
    await session.execute(delete(ConversationEntry).where(any_of(ConversationEntry.conversation_id, conversation_ids)))
    await session.execute(delete(Attachment).where(any_of(Attachment.conversation_id, conversation_ids)))
    await erase_conversations(session, conversation_ids)
    await session.execute(_ERASE_RESPONSES, {"ids": list(conversation_ids), "size": size})
    await session.execute(delete(Erasure).where(any_of(Erasure.conversation_id, conversation_ids)))
    return rows


async def erase_user_in_log(session: AsyncSession, user_id: str, *, size: int = BATCH) -> bool:
    """Erase a user's name and address from the log if at most `size` events hold them; return whether it did.

    The caller holds a lock on the user, so no concurrent transaction can add another such event.
    """
    if await session.scalar(_COUNT_OF_USER, {"user_id": user_id, "most": size + 1}) > size:
        return False
    await session.execute(_ERASE_USER, {"user_id": user_id})
    return True


async def begin_erasure(session: AsyncSession, user_id: str, *, content: bool, event_id: UUID | None) -> UUID:
    """Add the erasure of a user from the events before `event_id`, and with `content` of what they wrote.

    Without an event there is nothing left to erase in the log.
    """
    wrote_as_admin = exists().where(Message.sender_id == user_id, Message.sender_role == "admin")
    erasure = Erasure(
        user_id=user_id,
        content=content,
        event_id=event_id,
        whole_log=event_id is not None and bool(await session.scalar(select(wrote_as_admin))),
    )
    session.add(erasure)
    await session.flush()
    return erasure.id


async def find_erasure(session: AsyncSession, user_id: str) -> Erasure | None:
    """Lock and return the newest unfinished erasure of a user."""
    erasure: Erasure | None = await session.scalar(
        select(Erasure)
        .where(Erasure.user_id == user_id, Erasure.conversation_id.is_(None), Erasure.finished_at.is_(None))
        .order_by(Erasure.id.desc())
        .limit(1)
        .with_for_update()
    )
    return erasure


async def hide_conversations(session: AsyncSession, erasure_id: UUID, *, size: int = HIDE_BATCH) -> bool:
    """Delete up to `size` conversations of a user who is erased with their content; return whether there may be more.

    Keeps conversations that the user opened after the deletion.
    """
    erasure = await session.get_one(Erasure, erasure_id, with_for_update=True, populate_existing=True)
    if not erasure.content:
        return False
    values = {"user_id": erasure.user_id, "asked_at": erasure.asked_at, "size": size}
    ids = (await session.scalars(_HIDE, values)).all()
    erasure.erased += await erase_if_small(session, ids)
    await session.flush()
    return len(ids) == size


async def list_unfinished(sessions: SessionFactory) -> Sequence[UUID]:
    """Return the ids of 100 unfinished erasures, the least recent first: some wait for others, whose turn must come."""
    return [row["id"] for row in await fetch_alone(sessions, _LIST_UNFINISHED)]


async def erase_batch(session: AsyncSession, erasure_id: UUID, *, size: int = BATCH) -> int:
    """Erase the next batch of an erasure, unless another process has locked it; return the number of rows.

    The last batch sets `finished_at`.
    """
    query = select(Erasure).where(Erasure.id == erasure_id, Erasure.finished_at.is_(None))
    erasure = await session.scalar(query.with_for_update(skip_locked=True).execution_options(populate_existing=True))
    if erasure is None:
        return 0
    if erasure.conversation_id is not None:
        rows, done = await _erase_conversation(session, erasure, size)
    else:
        rows, done = await _erase_user(session, erasure, size)
    erasure.erased += rows
    erasure.advanced_at = func.clock_timestamp()
    if done:
        erasure.finished_at = func.clock_timestamp()
        if erasure.conversation_id is None:  # its parts are purged before its receipt
            await session.flush()
            erasure.erased += await session.scalar(_COUNT_PARTS, {"id": erasure.id}) or 0
    await session.flush()
    return rows


async def erase_round(sessions: SessionFactory, *, size: int = BATCH) -> int:
    """Erase a batch of every unfinished erasure, each in its own transaction; return the number of rows.

    A failed batch does not hold up the others and is retried in the next round.
    """
    rows = 0
    for erasure_id in await list_unfinished(sessions):
        try:
            async with transaction(sessions) as session:
                rows += await erase_batch(session, erasure_id, size=size)
        except Exception as error:
            if is_outage(error):
                raise
            log.warning("erasure batch failed, retrying", erasure_id=str(erasure_id), error=type(error).__name__)
    return rows


async def read_progress(session: AsyncSession, erasure_id: UUID) -> Progress:
    """Return the progress of a user's erasure. Raises `NotFound`."""
    row = (await session.execute(_PROGRESS, {"id": erasure_id})).one_or_none()
    if row is None:
        raise NotFound("There is no such erasure.")
    return Progress(*row)


async def read_state(session: AsyncSession) -> State:
    """Return the state of all unfinished erasures."""
    return State(*(await session.execute(_STATE)).one())


async def purge_erasures(session: AsyncSession, settings: JobsSettings, *, size: int) -> int:
    """Delete erasures that finished before the retention period; return how many. Users' are receipts, kept longer."""
    values = {"size": size, "retention": settings.retention_days, "receipts": settings.audit_days}
    return len((await session.execute(_PURGE, values)).all())


async def _erase_conversation(session: AsyncSession, erasure: Erasure, size: int) -> tuple[int, bool]:
    """Erase a conversation's next messages, files, entries and events; return how many rows, and whether it is done."""
    values = {"id": erasure.conversation_id, "size": size}
    numbers = (await session.scalars(_DELETE_MESSAGES, values | {"after": erasure.number})).all()
    entries = (await session.scalars(_DELETE_ENTRIES, values)).all()
    seqs = (await session.scalars(_ERASE_EVENTS, values | {"after": erasure.seq})).all()
    files = (await session.scalars(_DELETE_ATTACHMENTS, values)).all()
    responses = (await session.scalars(_ERASE_RESPONSES, {"ids": [erasure.conversation_id], "size": size})).all()
    erasure.number = max(numbers, default=erasure.number)
    erasure.seq = max(seqs, default=erasure.seq)
    kinds = (numbers, entries, seqs, files, responses)
    return sum(map(len, kinds)), all(len(rows) < size for rows in kinds)


async def _erase_user(session: AsyncSession, erasure: Erasure, size: int) -> tuple[int, bool]:
    """Do the same for a user: first hide conversations that a dead process left visible, then erase events.

    It is done when its parts are.
    """
    if await hide_conversations(session, erasure.id):
        return HIDE_BATCH, False
    rows, done = await _erase_from_log(session, erasure, size)
    return rows, done and not await session.scalar(_HAS_UNFINISHED_PARTS, {"id": erasure.id})


async def _erase_from_log(session: AsyncSession, erasure: Erasure, size: int) -> tuple[int, bool]:
    """Erase the user from the next events, up to that of the deletion, which follows all events that name them."""
    if erasure.event_id is None:
        return 0, True
    end = (await session.execute(_POSITION_OF, {"id": erasure.event_id})).one_or_none()
    if end is None:  # the log was purged beyond it
        return 0, True
    if end.position is None:  # the relay has not numbered it yet
        return 0, False
    scan_size = size * _SCAN_FACTOR if erasure.whole_log else size
    values: dict[str, Any] = {"user_id": erasure.user_id, "after": erasure.position, "end": end.position}
    values |= {"event_id": erasure.event_id, "size": scan_size}
    statement = _ERASE_IN_WHOLE_LOG if erasure.whole_log else _ERASE_IN_OWN_EVENTS
    row = (await session.execute(statement, values)).one()
    erasure.position = row.last or end.position
    return row.erased, row.looked_at < scan_size


_LIST_UNFINISHED = "select id from erasures where finished_at is null order by advanced_at, id limit 100"

# Rows are selected by arrays of ids: for these PostgreSQL uses the index. For a join it may scan the whole log.
_COUNT = text("""
    select count(*) from unnest(cast(:ids as uuid[])) as deleted (id) cross join lateral (
        (select from messages where conversation_id = deleted.id order by number limit :most)
        union all (select from conversation_entries where conversation_id = deleted.id limit :most)
        union all (select from events where conversation_id = deleted.id order by seq limit :most)
        union all (select from attachments where conversation_id = deleted.id limit :most)
        union all (
            select from webhook_deliveries where conversation_id = deleted.id and response is not null limit :most
        )
    ) as left_over
""")

# Conversations that the user opened before the deletion, locked in the order of ids, as in `delete_conversations`.
_HIDE = text(f"""
    with theirs as (
        select id from conversations where user_id = :user_id and created_at <= :asked_at
        order by id limit :size for update
    ),
    gone as (delete from conversations where id in (select id from theirs) returning id, user_id),
    told as (
        insert into events (type, user_id, conversation_id, payload)
        select '{EventType.CONVERSATION_DELETED}', user_id, id, jsonb_build_object('conversation_id', id) from gone
    )
    select id from gone
""")  # noqa: S608 - built from constants

_DELETE_MESSAGES = text("""
    delete from messages where id = any(array(
        select id from messages where conversation_id = :id and number > :after order by number limit :size
    ))
    returning number
""")

_DELETE_ENTRIES = text("""
    delete from conversation_entries where id = any(array(
        select id from conversation_entries where conversation_id = :id limit :size
    ))
    returning id
""")

# A trigger adds the deletion of each file's objects.
_DELETE_ATTACHMENTS = text("""
    delete from attachments where id = any(array(select id from attachments where conversation_id = :id limit :size))
    returning id
""")

# What webhooks' endpoints answered may quote the conversation.
_ERASE_RESPONSES = text("""
    update webhook_deliveries set response = null where id = any(array(
        select id from webhook_deliveries
        where conversation_id = any(cast(:ids as uuid[])) and response is not null order by id limit :size for update
    ))
    returning id
""")

# The event of the deletion keeps its payload.
_ERASE_EVENTS = text(f"""
    with next as (
        select id, seq from events where conversation_id = :id and seq > :after order by seq limit :size for update
    ),
    erased as (
        update events set payload = null
        where id = any(array(select id from next)) and type <> '{EventType.CONVERSATION_DELETED}'
    )
    select seq from next
""")  # noqa: S608 - built from constants


def _without_user(role: str) -> str:
    """Return the SQL of the part of a payload that erases the user in a role."""
    person = "jsonb_build_object('id', cast(:user_id as text), 'version', 0, 'deleted', true)"
    erased = f"jsonb_build_object('{role}', {person})"
    return f"case when payload -> '{role}' ->> 'id' = :user_id then {erased} else '{{}}'::jsonb end"


# The parts of a payload that may hold the user's name and address.
_ROLES = ("customer", "sender", "person")
# A merger's event has ids only, and must take effect however late it is handled.
_NAMES_USER = f"""
    type <> '{EventType.USER_MERGED}' and ({" or ".join(f"payload -> '{role}' ->> 'id' = :user_id" for role in _ROLES)})
"""
_ERASED = f"payload = payload || {' || '.join(map(_without_user, _ROLES))}"

_AS_ADMIN = "from messages where sender_id = :user_id and sender_role = 'admin'"

# Each subquery stops at `most` rows.
_COUNT_OF_USER = text(f"""
    with written as materialized (select conversation_id {_AS_ADMIN} limit :most),
    talks as (select distinct conversation_id as id from written)
    select (select count(*) from written)
        + (select count(*) from (select from events where user_id = :user_id order by position limit :most) as theirs)
        + (select count(*) from (
            select from talks cross join lateral (
                select from events where conversation_id = talks.id order by seq limit :most
            ) as told limit :most
        ) as told)
""")  # noqa: S608 - built from constants

_ERASE_USER = text(f"""
    with named as (
        select id from events where user_id = :user_id
        union select id from events where conversation_id = any(array(select distinct conversation_id {_AS_ADMIN}))
    ),
    theirs as (
        select id from events where id = any(array(select id from named)) and ({_NAMES_USER}) order by seq for update
    )
    update events set {_ERASED} where id = any(array(select id from theirs))
""")  # noqa: S608 - built from constants


def _scan(condition: str) -> str:
    return f"""
        with next as (
            select id, position from events where position > :after and position <= :end and id <> :event_id {condition}
            order by position limit :size
        ),
        theirs as (
            select id from events where id = any(array(select id from next)) and ({_NAMES_USER}) order by seq for update
        ),
        erased as (update events set {_ERASED} where id = any(array(select id from theirs)) returning 1)
        select max(position) as last, count(*) as looked_at, (select count(*) from erased) as erased from next
    """  # noqa: S608 - built from constants


_ERASE_IN_OWN_EVENTS = text(_scan("and user_id = :user_id"))
_ERASE_IN_WHOLE_LOG = text(_scan(""))
_POSITION_OF = text("select position from events where id = :id")

# Of a user's erasure: those of their conversations, with the content, and those of ids that were merged into theirs.
_MAY_BE_PART = """
    part.user_id = any(array(select asked.user_id union all select id from users where merged_into = asked.user_id))
        and (part.conversation_id is null) = (part.user_id <> asked.user_id)
        and (asked.content or part.conversation_id is null)
"""
_IS_PART = f"{_MAY_BE_PART} and part.asked_at >= asked.asked_at"
_HAS_UNFINISHED_PARTS = text(f"""
    select exists (
        select from erasures as asked join erasures as part on {_MAY_BE_PART}
        where asked.id = :id and part.finished_at is null
    )
""")  # noqa: S608 - built from constants
_COUNT_PARTS = text(f"""
    select coalesce(sum(part.erased), 0)::bigint from erasures as asked join erasures as part on {_IS_PART}
    where asked.id = :id
""")  # noqa: S608 - built from constants
_PROGRESS = text(f"""
    select id, user_id, content, erased + (
        select coalesce(sum(part.erased), 0)::bigint from erasures as part
        where {_IS_PART} and asked.finished_at is null
    ), asked_at, finished_at, asked_by, counts
    from erasures as asked where id = :id and conversation_id is null
""")  # noqa: S608 - built from constants

_STATE = text(f"""
    with unfinished as (select * from erasures where finished_at is null),
    counted as (
        select id, erased from unfinished union
        select part.id, part.erased from unfinished as asked join erasures as part on {_IS_PART}
            where asked.conversation_id is null
    )
    select count(*), (select coalesce(sum(erased), 0)::bigint from counted),
        coalesce(extract(epoch from clock_timestamp() - max(advanced_at))::float8, 0)
    from unfinished
""")  # noqa: S608 - built from constants

_PURGE = text("""
    delete from erasures where id in (
        select id from erasures
        where finished_at < clock_timestamp() - make_interval(secs => 86400 * case
            when conversation_id is null then greatest(cast(:retention as float8), cast(:receipts as float8))
            else cast(:retention as float8)
        end)
        order by id limit :size
    )
    returning id
""")
