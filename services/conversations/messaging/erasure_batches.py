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
from sqlalchemy import delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.append import erase_conversations
from services.conversations.messaging import erasure_sql
from services.conversations.models import Attachment, ConversationEntry, Erasure, Message
from services.conversations.settings import JobsSettings
from shared.database.errors import is_outage
from shared.database.orm import any_of
from shared.database.transactions import SessionFactory, fetch_alone, transaction
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


async def erase_if_small(session: AsyncSession, conversation_ids: Sequence[UUID]) -> int:
    """Erase the remaining rows of deleted conversations if these are at most `BATCH`; return how many it erased."""
    if not 0 < len(conversation_ids) <= BATCH:
        return 0
    rows: int = await session.scalar(erasure_sql.COUNT, {"ids": list(conversation_ids), "most": BATCH + 1})
    if rows > BATCH:
        return 0
    await session.execute(delete(Message).where(any_of(Message.conversation_id, conversation_ids)))
    await session.execute(delete(ConversationEntry).where(any_of(ConversationEntry.conversation_id, conversation_ids)))
    await session.execute(delete(Attachment).where(any_of(Attachment.conversation_id, conversation_ids)))
    await erase_conversations(session, conversation_ids)
    await session.execute(erasure_sql.ERASE_RESPONSES, {"ids": list(conversation_ids), "size": BATCH})
    await session.execute(delete(Erasure).where(any_of(Erasure.conversation_id, conversation_ids)))
    return rows


async def erase_user_in_log(session: AsyncSession, user_id: str) -> bool:
    """Erase a user's name and address from the log if at most `BATCH` events hold them; return whether it did.

    The caller holds a lock on the user, so no concurrent transaction can add another such event.
    """
    if await session.scalar(erasure_sql.COUNT_OF_USER, {"user_id": user_id, "most": BATCH + 1}) > BATCH:
        return False
    await session.execute(erasure_sql.ERASE_USER, {"user_id": user_id})
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


async def hide_conversations(session: AsyncSession, erasure_id: UUID) -> bool:
    """Delete conversations of a user who is erased with their content, a batch; return whether there may be more.

    Keeps conversations that the user opened after the deletion.
    """
    erasure = await session.get_one(Erasure, erasure_id, with_for_update=True, populate_existing=True)
    if not erasure.content:
        return False
    values = {"user_id": erasure.user_id, "asked_at": erasure.asked_at, "size": HIDE_BATCH}
    ids = (await session.scalars(erasure_sql.HIDE, values)).all()
    erasure.erased += await erase_if_small(session, ids)
    await session.flush()
    return len(ids) == HIDE_BATCH


async def list_unfinished(sessions: SessionFactory) -> Sequence[UUID]:
    """Return the ids of 100 unfinished erasures, the least recent first: some wait for others, whose turn must come."""
    return [row["id"] for row in await fetch_alone(sessions, erasure_sql.LIST_UNFINISHED)]


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
            erasure.erased += await session.scalar(erasure_sql.COUNT_PARTS, {"id": erasure.id}) or 0
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
    row = (await session.execute(erasure_sql.PROGRESS, {"id": erasure_id})).one_or_none()
    if row is None:
        raise NotFound("There is no such erasure.")
    return Progress(*row)


async def read_state(session: AsyncSession) -> State:
    """Return the state of all unfinished erasures."""
    return State(*(await session.execute(erasure_sql.STATE)).one())


async def purge_erasures(session: AsyncSession, settings: JobsSettings, *, size: int) -> int:
    """Delete erasures that finished before the retention period; return how many. Users' are receipts, kept longer."""
    values = {"size": size, "retention": settings.retention_days, "receipts": settings.audit_days}
    return len((await session.execute(erasure_sql.PURGE, values)).all())


async def _erase_conversation(session: AsyncSession, erasure: Erasure, size: int) -> tuple[int, bool]:
    """Erase a conversation's next messages, files, entries and events; return how many rows, and whether it is done."""
    values = {"id": erasure.conversation_id, "size": size}
    numbers = (await session.scalars(erasure_sql.DELETE_MESSAGES, values | {"after": erasure.number})).all()
    entries = (await session.scalars(erasure_sql.DELETE_ENTRIES, values)).all()
    seqs = (await session.scalars(erasure_sql.ERASE_EVENTS, values | {"after": erasure.seq})).all()
    files = (await session.scalars(erasure_sql.DELETE_ATTACHMENTS, values)).all()
    responses = (
        await session.scalars(erasure_sql.ERASE_RESPONSES, {"ids": [erasure.conversation_id], "size": size})
    ).all()
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
    return rows, done and not await session.scalar(erasure_sql.HAS_UNFINISHED_PARTS, {"id": erasure.id})


async def _erase_from_log(session: AsyncSession, erasure: Erasure, size: int) -> tuple[int, bool]:
    """Erase the user from the next events, up to that of the deletion, which follows all events that name them."""
    if erasure.event_id is None:
        return 0, True
    end = (await session.execute(erasure_sql.POSITION_OF, {"id": erasure.event_id})).one_or_none()
    if end is None:  # the log was purged beyond it
        return 0, True
    if end.position is None:  # the relay has not numbered it yet
        return 0, False
    scan_size = size * _SCAN_FACTOR if erasure.whole_log else size
    values: dict[str, Any] = {"user_id": erasure.user_id, "after": erasure.position, "end": end.position}
    values |= {"event_id": erasure.event_id, "size": scan_size}
    statement = erasure_sql.ERASE_IN_WHOLE_LOG if erasure.whole_log else erasure_sql.ERASE_IN_OWN_EVENTS
    row = (await session.execute(statement, values)).one()
    erasure.position = row.last or end.position
    return row.erased, row.looked_at < scan_size
