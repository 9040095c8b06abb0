"""The live stream of Server-Sent Events for customers and admins."""

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import Header, Query, Request, Response
from starlette.types import Receive, Scope, Send

from services.conversations.api.dependencies import AnyReader
from services.conversations.api.schemas.responses import (
    AdminConversationOut,
    ConversationOut,
    MessageOut,
    Unread,
    Viewer,
)
from services.conversations.api.state import ApiState, api_state
from services.conversations.errors import TooManyStreams
from services.conversations.event_log.reader import Entry
from services.conversations.messaging.posting import Posted
from services.conversations.realtime.connection import Connection
from services.conversations.realtime.rendering import EventRenderer
from services.conversations.records import ConversationDetail
from services.conversations.rules import Side
from shared.api.response_body import ResponseBody, write_json
from shared.api.routing import ApiRouter
from shared.auth.principal import Principal
from shared.events import ConversationDeleted, ConversationRead, EventType, MessagePosted, MessageRemoved
from shared.problems import Forbidden, Invalid, Unauthenticated, Unavailable, problem_responses

MEDIA_TYPE = "text/event-stream"
RETRY = (1000, 4000)  # milliseconds; spreads the reconnects after a process ends

_FIELDS = {"event": "string", "data": "string", "id": "string", "retry": "integer"}
_EVENT = {"type": "object", "properties": {name: {"type": kind} for name, kind in _FIELDS.items()}}
_CONTENT = {MEDIA_TYPE: {"schema": {"type": "string"}, "x-itemSchema": _EVENT}}  # `itemSchema` from OpenAPI 3.2

router = ApiRouter(
    prefix="/api/v1",
    tags=["Live events"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, TooManyStreams, Unavailable),
)


class ConversationChanged(ResponseBody):
    """An event's data: the conversation as it is now, and the posted message or the number of the removed one."""

    conversation_id: UUID
    conversation: ConversationOut
    message: MessageOut | None = None
    removed_number: int | None = None


class AdminConversationChanged(ConversationChanged):
    """The same for admins."""

    conversation: AdminConversationOut


_NOTES = frozenset({EventType.NOTE_POSTED, EventType.NOTE_DELETED})
_AS_LOGGED = frozenset({EventType.NOTIFICATION_CREATED, EventType.INBOUND_UPDATED})
_READ_FIELDS = {"conversation_id", "by", "up_to"}
_NOT_SENT = {"subject", "number", "actor_id", "body"}  # of a note that mentions admins


def event_renderer(store_name: str) -> EventRenderer:
    """Return a renderer of events for a side. It returns nothing for events that are hidden from it or erased."""
    viewers = {side: Viewer(side=side, store_name=store_name) for side in Side}

    def render(entry: Entry, detail: ConversationDetail | None, side: Side) -> Sequence[str]:
        if entry.type == EventType.EMAIL_UPDATED:
            return [json.dumps(email) for email in (entry.payload or {}).get("emails", ())]
        data = _render(entry, detail, side, viewers[side])
        return [] if data is None else [data]

    return render


def _render(entry: Entry, detail: ConversationDetail | None, side: Side, viewer: Viewer) -> str | None:  # noqa: PLR0911 - a return per kind is the table it is
    if entry.type == EventType.CONVERSATION_DELETED:
        return ConversationDeleted.model_validate(entry.payload).model_dump_json()
    if entry.type == EventType.INBOUND_UPDATED and entry.conversation_id is None:  # an email of no conversation
        return json.dumps(entry.payload)
    if detail is None or entry.payload is None:
        return None
    if entry.type == EventType.CONVERSATION_READ:
        return ConversationRead.model_validate(entry.payload).model_dump_json(include=_READ_FIELDS)
    if entry.type in _NOTES:
        return json.dumps({name: value for name, value in entry.payload.items() if name not in _NOT_SENT})
    if entry.type in _AS_LOGGED:
        return json.dumps(entry.payload)
    conversation_id = detail.conversation.id
    changed = (
        AdminConversationChanged(conversation_id, AdminConversationOut.of(detail))
        if side is Side.ADMIN
        else ConversationChanged(conversation_id, ConversationOut.of(detail))
    )
    if entry.type == EventType.MESSAGE_REMOVED:
        changed.removed_number = MessageRemoved.model_validate(entry.payload).number
    if entry.type == EventType.MESSAGE_POSTED:
        changed.message = MessageOut.of(_posted(entry), viewer)
    return write_json(changed).decode()


def render_unread(count: int) -> str:
    """Render the number of unread conversations."""
    return write_json(Unread.of(count)).decode()


def _posted(entry: Entry) -> Posted:
    event = MessagePosted.model_validate(entry.payload)
    return Posted(
        **event.message.model_dump(exclude={"attachments"}),
        attachments=[file.model_dump(mode="json") for file in event.message.attachments],
        conversation_id=event.conversation_id,
        sender_id=event.sender.id,
        sender_name=event.sender.name,
        sender_deleted=event.sender.deleted,
    )


Resume = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="The `id` of the last event, as browsers send it. Unless empty, overrides `after`.",
    ),
]
After = Annotated[
    str | None, Query(description="Start after this position: an event's `id`, or another response's `X-Position`.")
]


class EventStream(Response):
    """A response that opens a caller's stream, and sends its events until it ends or the client disconnects.

    It counts against the caller's quota, and holds no database connection. Raises problems before it sends anything.
    """

    media_type = MEDIA_TYPE

    def __init__(self, state: ApiState, caller: Principal, position: str | None) -> None:
        # X-Accel-Buffering keeps nginx from delaying events.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["Content-Length"]
        self._state, self._caller, self._position = state, caller, position

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Open the stream, and send events as they come."""
        state, caller = self._state, self._caller
        admitted_at = await state.admission.admit(caller)
        stream = Connection(caller.id, Side(caller.role), admitted_at, caller.session_id)
        async with state.stream_quota.acquire(caller.id):
            with state.hub.open(stream, caller.expires_at):
                await self._send_events(stream, receive, send)

    async def _send_events(self, stream: Connection, receive: Receive, send: Send) -> None:
        """Send events, all that are ready in one chunk."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        disconnect = asyncio.create_task(_end_on_disconnect(stream, receive))
        try:
            encoded = b"retry: %d\n" % random.randint(*RETRY)  # noqa: S311 - spreads load
            async for events in self._state.hub.events(stream, self._position):
                encoded += b"".join([event.encoded for event in events])
                await send({"type": "http.response.body", "body": encoded, "more_body": True})
                encoded = b""
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if not disconnect.done():
                disconnect.cancel()
                await asyncio.wait([disconnect])


async def _end_on_disconnect(stream: Connection, receive: Receive) -> None:
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        stream.end()


@router.read(
    "/stream",
    summary="Stream live events",
    response_class=Response,
    responses={200: {"description": "Events", "content": _CONTENT}},
)
async def stream_events(
    request: Request,
    reading: AnyReader,
    last_event_id: Resume = None,
    after: After = None,
) -> EventStream:
    """Stream live events: a customer's own conversations, or all of them for an admin.

    Each event has a name, JSON data, and mostly an `id`, its position. A comment line comes at least every 25 s. A
    user can have five streams open.

    A client that reconnects with the last `id` gets the events it missed, in order. If its position is unknown or
    purged, it gets `reset`, and should reload its data and continue.
    """
    position = last_event_id or after  # before their first event, some clients send an empty header
    return EventStream(api_state(request), reading.principal, position)
