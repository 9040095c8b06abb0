"""The live stream: Server-Sent Events of what a customer or an admin may see."""

import random
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, TypeAdapter

from services.conversations.api.dependencies import let_in
from services.conversations.api.views import ConversationOut, MessageOut, Unread, Viewer
from services.conversations.errors import TooManyStreams
from services.conversations.live import Hub, Show
from services.conversations.log import Entry
from services.conversations.places import Places
from services.conversations.posting import Posted
from services.conversations.rows import Thread
from services.conversations.rules import Side
from services.conversations.streams import Shown, Stream
from shared.auth import Principal, Role, require
from shared.database import answered_transaction
from shared.events import ConversationDeleted, ConversationRead, EventType, MessagePosted
from shared.problems import Forbidden, Invalid, Unauthenticated, Unavailable, answers

RETRY = (1000, 4000)  # milliseconds: clients that lost a process come back spread over these

_UNREAD = TypeAdapter(Unread)

router = APIRouter(
    prefix="/api/v1",
    tags=["Customer", "Admin"],
    responses=answers(Unauthenticated, Forbidden, Invalid, TooManyStreams, Unavailable),
)


class ConversationChanged(BaseModel):
    """What happened in a conversation, with the conversation as it is now."""

    conversation_id: UUID
    conversation: ConversationOut
    message: MessageOut | None = None


def show_event(store_name: str) -> Show:
    """Make what shows an event of the log to a side; None for what is not theirs to know, or is deleted since."""
    viewers = {side: Viewer(side=side, store_name=store_name) for side in Side}

    def show(entry: Entry, thread: Thread | None, side: Side) -> str | None:
        if entry.type == EventType.CONVERSATION_DELETED:
            return ConversationDeleted.model_validate(entry.payload).model_dump_json()
        if thread is None or entry.payload is None:
            return None
        if entry.type == EventType.CONVERSATION_READ:
            return ConversationRead.model_validate(entry.payload).model_dump_json()
        changed = ConversationChanged(conversation_id=thread.conversation.id, conversation=ConversationOut.of(thread))
        if entry.type == EventType.MESSAGE_POSTED:
            changed.message = MessageOut.of(_posted(entry), viewers[side])
            return changed.model_dump_json()
        return changed.model_dump_json(exclude={"message"})

    return show


def show_unread(count: int) -> str:
    """Show how many conversations are unread."""
    return _UNREAD.dump_json(Unread.of(count), exclude_none=True).decode()


def _posted(entry: Entry) -> Posted:
    event = MessagePosted.model_validate(entry.payload)
    return Posted(
        **event.message.model_dump(),
        conversation_id=event.conversation_id,
        sender_id=event.sender.id,
        sender_name=event.sender.name,
        sender_deleted=event.sender.deleted,
    )


Resume = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="The last event's `id`, as a browser sends it; wins over `after`."),
]
After = Annotated[str | None, Query(description="A position: an event's `id`, or `X-Position` of another answer.")]


async def _live(
    request: Request,
    response: Response,
    principal: Annotated[Principal, Depends(require(Role.CUSTOMER, Role.ADMIN))],
    last_event_id: Resume = None,
    after: After = None,
) -> AsyncIterator[AsyncIterator[Shown]]:
    """Open a stream; its place is free again when the answer has ended. No connection is held meanwhile."""
    async with answered_transaction(request.app.state.sessions) as session:
        admitted_at = await let_in(session, principal, used=False)
    hub: Hub = request.app.state.hub
    response.headers["Cache-Control"] = "no-store"
    opened = Stream(principal.id, Side(principal.role), admitted_at, principal.session_id)
    places: Places = request.app.state.places
    async with places.hold(principal.id):
        with hub.open(opened, principal.expires_at) as stream:
            yield hub.events(stream, last_event_id if last_event_id is not None else after)


@router.get("/stream", response_class=EventSourceResponse)
async def stream_events(
    live: Annotated[AsyncIterator[Shown], Depends(_live)],
) -> AsyncIterator[ServerSentEvent]:
    """Follow what happens: to a customer in own conversations, to an admin in all.

    Events are `conversation.created`, `message.posted`, `conversation.updated` (`{conversation_id, conversation,
    message?}`), `conversation.read` (`{conversation_id, by, up_to}`), `conversation.deleted` (`{conversation_id}`) and
    `unread` (`{unread, more?}`). A client that comes back with the last `id` gets what it missed, in order; one whose
    position is not known any more gets `reset`, loads anew what it shows, and goes on.
    """
    retry: int | None = random.randint(*RETRY)  # noqa: S311 - spreads load
    async for shown in live:
        yield ServerSentEvent(event=shown.event, raw_data=shown.data, id=shown.id, retry=retry)
        retry = None
