"""Erasing what was deleted: out of sight at once, and erased behind that, in batches.

To delete a conversation is to delete its row: nobody finds its messages without it. A trigger notes that they, and
what the log tells of them, are still to be erased. A deletion that is small erases all of it in its own transaction;
the rest is done a batch a transaction by every relay. A batch says in its own transaction how far it has come, so a
process may die between any two of them, and another one goes on.
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
from services.conversations.models import Erasure, Message
from services.conversations.settings import StoreSettings
from shared.database import SessionFactory, transaction
from shared.events import EventType
from shared.outages import is_outage
from shared.problems import NotFound
from shared.tables import any_of

BATCH = 1000  # rows of a kind that one transaction erases
HIDDEN = 10_000  # conversations of a user that one transaction takes out of sight
_LOOKED_AT = 5  # times as many events are looked at in a transaction that looks through the whole log

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Progress:
    """How an erasure of a user stands; `erased` counts rows, those of the conversations that go with it among them."""

    id: UUID
    user_id: str
    content: bool
    erased: int
    asked_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class State:
    """What is still to be erased: how many, rows so far, and how long none of them has come further, in seconds."""

    under_way: int
    erased: int
    resting: float


async def erase_at_once(session: AsyncSession, conversation_ids: Sequence[UUID], *, size: int = BATCH) -> bool:
    """Erase what is left of deleted conversations, if that is little; tell whether it was."""
    if not conversation_ids:
        return True
    if len(conversation_ids) > size:
        return False
    if await session.scalar(_COUNT, {"ids": list(conversation_ids), "most": size + 1}) > size:
        return False
    await session.execute(delete(Message).where(any_of(Message.conversation_id, conversation_ids)))
    await erase_conversations(session, conversation_ids)
    await session.execute(delete(Erasure).where(any_of(Erasure.conversation_id, conversation_ids)))
    return True


async def erase_user_in_log(session: AsyncSession, user_id: str, *, size: int = BATCH) -> bool:
    """Erase what the log holds of a user's name and address, if it tells little of them; tell whether it does.

    The caller has locked the user, so that nothing of it is in a transaction under way.
    """
    if await session.scalar(_COUNT_OF_USER, {"user_id": user_id, "most": size + 1}) > size:
        return False
    await session.execute(_ERASE_USER, {"user_id": user_id})
    return True


async def begin_erasure(session: AsyncSession, user_id: str, *, content: bool, event_id: UUID | None) -> UUID:
    """Note that a user is to be erased: what the log told of them before an event, and with `content` what they wrote.

    Without an event nothing is left to erase in the log.
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
    """Return the newest erasure of a user that is under way."""
    found: Erasure | None = await session.scalar(
        select(Erasure)
        .where(Erasure.user_id == user_id, Erasure.conversation_id.is_(None), Erasure.finished_at.is_(None))
        .order_by(Erasure.id.desc())
        .limit(1)
        .with_for_update()
    )
    return found


async def hide_conversations(session: AsyncSession, erasure_id: UUID, *, size: int = HIDDEN) -> bool:
    """Delete some conversations of a user who is erased with what they wrote; True when there may be more.

    What the user began after coming back is left alone.
    """
    erasure = await session.get_one(Erasure, erasure_id)
    if not erasure.content:
        return False
    values = {"user_id": erasure.user_id, "asked_at": erasure.asked_at, "size": size}
    gone = (await session.scalars(_HIDE, values)).all()
    await erase_at_once(session, gone)
    return len(gone) == size


async def list_unfinished(session: AsyncSession, limit: int = 100) -> Sequence[UUID]:
    """Return what is still to be erased, the oldest first."""
    unfinished = select(Erasure.id).where(Erasure.finished_at.is_(None)).order_by(Erasure.id).limit(limit)
    return (await session.scalars(unfinished)).all()


async def erase_batch(session: AsyncSession, erasure_id: UUID, *, size: int = BATCH) -> int:
    """Erase the next rows of an erasure, unless another process is at it; return how many.

    The last batch notes that it is finished.
    """
    found = select(Erasure).where(Erasure.id == erasure_id, Erasure.finished_at.is_(None))
    erasure = await session.scalar(found.with_for_update(skip_locked=True).execution_options(populate_existing=True))
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
    await session.flush()
    return rows


async def erase_round(sessions: SessionFactory, *, size: int = BATCH) -> int:
    """Erase a batch of everything that is under way, each in its own transaction; return how many rows.

    One that fails holds up no other, and has its turn again in the next round.
    """
    async with transaction(sessions) as session:
        unfinished = await list_unfinished(session)
    rows = 0
    for erasure_id in unfinished:
        try:
            async with transaction(sessions) as session:
                rows += await erase_batch(session, erasure_id, size=size)
        except Exception as error:
            if is_outage(error):
                raise
            log.warning("a batch was not erased, trying again", erasure_id=str(erasure_id), error=type(error).__name__)
    return rows


async def read_progress(session: AsyncSession, erasure_id: UUID) -> Progress:
    """Return how a user's erasure stands. Raises `NotFound`."""
    row = (await session.execute(_PROGRESS, {"id": erasure_id})).one_or_none()
    if row is None:
        raise NotFound("There is no such erasure.")
    return Progress(*row)


async def read_state(session: AsyncSession) -> State:
    """Return what is still to be erased."""
    return State(*(await session.execute(_STATE)).one())


async def purge_erasures(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Forget the erasures that were finished longer ago than the retention; return how many."""
    return len((await session.execute(_PURGE, {"size": size, "retention": settings.retention_days})).all())


async def _erase_conversation(session: AsyncSession, erasure: Erasure, size: int) -> tuple[int, bool]:
    """Erase a conversation's next messages and events; return how many rows, and whether these were the last."""
    values = {"id": erasure.conversation_id, "size": size}
    numbers = (await session.scalars(_DELETE_MESSAGES, values | {"after": erasure.number})).all()
    places = (await session.scalars(_ERASE_EVENTS, values | {"after": erasure.seq})).all()
    erasure.number = max(numbers, default=erasure.number)
    erasure.seq = max(places, default=erasure.seq)
    return len(numbers) + len(places), len(numbers) < size and len(places) < size


async def _erase_user(session: AsyncSession, erasure: Erasure, size: int) -> tuple[int, bool]:
    """Do the same for a user: conversations that a process left in sight when it died, then the log."""
    if await hide_conversations(session, erasure.id):
        return HIDDEN, False
    rows, done = await _erase_from_log(session, erasure, size)
    left = exists().where(
        Erasure.user_id == erasure.user_id, Erasure.conversation_id.is_not(None), Erasure.finished_at.is_(None)
    )
    return rows, done and not (erasure.content and await session.scalar(select(left)))


async def _erase_from_log(session: AsyncSession, erasure: Erasure, size: int) -> tuple[int, bool]:
    """Erase the next events up to that of the deletion: all that name the user have a position before it."""
    if erasure.event_id is None:
        return 0, True
    end = (await session.execute(_POSITION_OF, {"id": erasure.event_id})).one_or_none()
    if end is None:  # the log was purged beyond it
        return 0, True
    if end.position is None:  # the relay has not numbered it yet
        return 0, False
    looked_at = size * _LOOKED_AT if erasure.whole_log else size
    values: dict[str, Any] = {"user_id": erasure.user_id, "after": erasure.position, "end": end.position}
    values |= {"event_id": erasure.event_id, "size": looked_at}
    statement = _ERASE_IN_WHOLE_LOG if erasure.whole_log else _ERASE_THEIRS
    row = (await session.execute(statement, values)).one()
    erasure.position = row.last or end.position
    return row.erased, row.looked_at < looked_at


# Rows are named by arrays of their ids: with these PostgreSQL takes the index, whatever it believes of the tables. In a
# join with them it may walk through the whole log for a handful.
_COUNT = text("""
    select count(*) from unnest(cast(:ids as uuid[])) as deleted (id) cross join lateral (
        (select from messages where conversation_id = deleted.id order by number limit :most)
        union all (select from events where conversation_id = deleted.id order by seq limit :most)
    ) as left_over
""")

# A conversation that its user began before the deletion was asked for. Locked by their keys, as by who deletes several.
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

# That it was deleted is what the log goes on to tell.
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


def _nobody(role: str) -> str:
    """Make the SQL of an event's part that erases the user in a role."""
    person = "jsonb_build_object('id', cast(:user_id as text), 'version', 0, 'deleted', true)"
    erased = f"jsonb_build_object('{role}', {person})"
    return f"case when payload -> '{role}' ->> 'id' = :user_id then {erased} else '{{}}'::jsonb end"


# Both sides of the user: the customer of these events, and the sender within them.
_ROLES = ("customer", "sender", "person")
_NAMES_USER = " or ".join(f"payload -> '{role}' ->> 'id' = :user_id" for role in _ROLES)
_ERASED = f"payload = payload || {' || '.join(map(_nobody, _ROLES))}"

_AS_ADMIN = "from messages where sender_id = :user_id and sender_role = 'admin'"

# Each part stops at the most that is of interest, however much there is.
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


def _walk(whose: str) -> str:
    return f"""
        with next as (
            select id, position from events where position > :after and position <= :end and id <> :event_id {whose}
            order by position limit :size
        ),
        theirs as (
            select id from events where id = any(array(select id from next)) and ({_NAMES_USER}) order by seq for update
        ),
        erased as (update events set {_ERASED} where id = any(array(select id from theirs)) returning 1)
        select max(position) as last, count(*) as looked_at, (select count(*) from erased) as erased from next
    """  # noqa: S608 - built from constants


_ERASE_THEIRS = text(_walk("and user_id = :user_id"))
_ERASE_IN_WHOLE_LOG = text(_walk(""))
_POSITION_OF = text("select position from events where id = :id")

_PROGRESS = text("""
    select id, user_id, content, erased + (
        select coalesce(sum(beside.erased), 0)::bigint from erasures as beside
        where asked.content and beside.user_id = asked.user_id and beside.conversation_id is not null
            and beside.asked_at >= asked.asked_at
    ), asked_at, finished_at
    from erasures as asked where id = :id and conversation_id is null
""")

_STATE = text("""
    select count(*), coalesce(sum(erased), 0)::bigint,
        coalesce(extract(epoch from clock_timestamp() - max(advanced_at))::float8, 0)
    from erasures where finished_at is null
""")

_PURGE = text("""
    delete from erasures where id in (
        select id from erasures
        where finished_at < clock_timestamp() - make_interval(secs => cast(:retention as float8) * 86400)
        order by id limit :size
    )
    returning id
""")
