"""Append to the event log, in the transaction of the change that an event describes."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import event, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.models import LoggedEvent
from services.conversations.rules import Side
from shared.database.orm import any_of, bulk_insert
from shared.database.transactions import SessionFactory
from shared.events import EventType

_ANNOUNCE = "announce_appends"


def announce_appends(sessions: SessionFactory, announce: Callable[[], None]) -> None:
    """Call `announce` after each commit of these sessions that appended events."""
    sessions.configure(info={_ANNOUNCE: announce})


async def append_event(
    session: AsyncSession,
    event_type: EventType,
    payload: BaseModel | dict[str, Any],
    *,
    user_id: str | None = None,
    conversation_id: UUID | None = None,
    audience: Side | None = None,
) -> UUID:
    """Append an event in the transaction of the change that it describes; return its id.

    Customers do not see an event whose `audience` is the admins.
    """
    body = payload.model_dump(mode="json") if isinstance(payload, BaseModel) else payload
    row = insert(LoggedEvent).values(
        type=event_type, payload=body, user_id=user_id, conversation_id=conversation_id, audience=audience
    )
    announce_at_commit(session)
    return (await session.execute(row.returning(LoggedEvent.id))).scalar_one()


async def append_events(
    session: AsyncSession, event_type: EventType, events: Sequence[tuple[str, UUID | None, BaseModel]]
) -> None:
    """Append several events in order, each given as user id, conversation id and payload; one statement."""
    names = ("type", "user_id", "conversation_id", "payload")
    rows = [
        dict(zip(names, (event_type, user_id, conversation_id, payload.model_dump(mode="json")), strict=True))
        for user_id, conversation_id, payload in events
    ]
    announce_at_commit(session)
    await session.execute(bulk_insert(LoggedEvent, rows))


def announce(sessions: SessionFactory) -> None:
    """Announce events that a statement has appended which was a transaction of its own."""
    announce_now: Callable[[], None] | None = (sessions.kw.get("info") or {}).get(_ANNOUNCE)
    if announce_now is not None:
        announce_now()


def announce_at_commit(session: AsyncSession) -> None:
    """Announce that the session's transaction has appended events, once it is committed."""
    announce: Callable[[], None] | None = session.info.get(_ANNOUNCE)
    if announce is not None:
        event.listen(session.sync_session, "after_commit", lambda _: announce(), once=True)


async def erase_conversations(session: AsyncSession, conversation_ids: Sequence[UUID]) -> None:
    """Erase the payloads of these conversations' events, except those of their deletion; the rows stay."""
    events = (
        select(LoggedEvent.id)
        .where(
            any_of(LoggedEvent.conversation_id, conversation_ids),
            LoggedEvent.type != EventType.CONVERSATION_DELETED,
        )
        .order_by(LoggedEvent.seq)
        .with_for_update()
        .cte()
    )
    await session.execute(update(LoggedEvent).where(LoggedEvent.id == events.c.id).values(payload=None))
