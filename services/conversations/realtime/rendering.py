"""Render events of the log for live streams: once per side, encoded once for all of its clients."""

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import structlog

from services.conversations.event_log.position import encode_position
from services.conversations.event_log.reader import Entry
from services.conversations.messaging.queries import load_conversations
from services.conversations.realtime.connection import SseEvent
from services.conversations.records import ConversationDetail
from services.conversations.rules import Side
from shared.database.engine import Driver
from shared.events import EventType

RESET = "reset"

log = structlog.get_logger()

# Returns the data of an entry's events for a side, one for most, none if there is nothing to send; given the
# conversation if that still exists.
EventRenderer = Callable[[Entry, ConversationDetail | None, Side], Sequence[str]]


async def render_events(
    connection: Driver, render: EventRenderer, epoch: UUID, entries_by_side: Mapping[Side, Sequence[Entry]]
) -> dict[Side, list[tuple[Entry, SseEvent]]]:
    """Render entries once for each side, with the current state of their conversations."""
    ids = {entry.conversation_id for entries in entries_by_side.values() for entry in entries if entry.conversation_id}
    details = await load_conversations(connection, ids) if ids else []
    conversations = {detail.conversation.id: detail for detail in details}
    return {
        side: [(entry, event) for entry in entries if (event := _render(render, epoch, entry, conversations, side))]
        for side, entries in entries_by_side.items()
    }


def _render(
    render: EventRenderer, epoch: UUID, entry: Entry, conversations: Mapping[UUID, ConversationDetail], side: Side
) -> SseEvent | None:
    event_id = encode_position(epoch, entry.position)
    if entry.type == EventType.USER_MERGED:  # conversations have become another customer's: clients reload
        is_persons = entry.payload is not None and entry.payload["person"]["id"] != entry.user_id
        return SseEvent(RESET, "{}", entry.position, event_id) if is_persons else None
    try:
        data = render(entry, conversations.get(entry.conversation_id) if entry.conversation_id else None, side)
    except Exception as error:  # noqa: BLE001 - one event must not hold up the next ones
        # Without the error's text, which may quote a message.
        log.error("event not rendered, clients reload", position=entry.position, error=type(error).__name__)  # noqa: TRY400 - a traceback may quote a message
        return SseEvent(RESET, "{}", entry.position, event_id)
    return SseEvent(entry.type, data[-1], entry.position, event_id, before=tuple(data[:-1])) if data else None
