"""Events of the log as live streams tell them: each shown once to a side, and encoded once for all who hear it."""

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.position import encode_position
from services.conversations.event_log.reader import Entry
from services.conversations.messaging.queries import load_conversations
from services.conversations.realtime.connection import SseEvent
from services.conversations.records import ConversationDetail
from services.conversations.rules import Side
from shared.database import driver_connection

RESET = "reset"

log = structlog.get_logger()

# Shows an event to a side, beside its conversation if that is still there; None when there is nothing to show.
EventRenderer = Callable[[Entry, ConversationDetail | None, Side], str | None]


async def render_events(
    session: AsyncSession, show: EventRenderer, epoch: UUID, wanted: Mapping[Side, Sequence[Entry]]
) -> dict[Side, list[tuple[Entry, SseEvent]]]:
    """Show events once to each side that wants them, with the conversations as they are now."""
    spoken_of = {entry.conversation_id for entries in wanted.values() for entry in entries} - {None}
    connection = await driver_connection(session)
    found = await load_conversations(connection, [identity for identity in spoken_of if identity]) if spoken_of else []
    threads = {thread.conversation.id: thread for thread in found}
    return {
        side: [(entry, shown) for entry in entries if (shown := _render(show, epoch, entry, threads, side))]
        for side, entries in wanted.items()
    }


def _render(
    show: EventRenderer, epoch: UUID, entry: Entry, threads: Mapping[UUID, ConversationDetail], side: Side
) -> SseEvent | None:
    identity = encode_position(epoch, entry.position)
    try:
        data = show(entry, threads.get(entry.conversation_id) if entry.conversation_id else None, side)
    except Exception as error:  # noqa: BLE001 - it must not come in the way of what follows
        # Without its own words, which may quote a message.
        log.error("event not shown, clients load anew", position=entry.position, error=type(error).__name__)  # noqa: TRY400 - a traceback may quote a message
        return SseEvent(RESET, "{}", entry.position, identity)
    return SseEvent(entry.type, data, entry.position, identity) if data else None
