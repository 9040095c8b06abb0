"""The route by which admins' pages report who is viewing a conversation, and who is writing."""

from collections.abc import Sequence

from fastapi import Request

from services.conversations.api.dependencies import ConversationId, WatchingAdmin
from services.conversations.api.schemas.requests import Viewing
from services.conversations.api.schemas.responses import Viewers
from services.conversations.api.state import api_state
from services.conversations.models import User
from services.conversations.realtime import presence
from services.conversations.realtime.presence_feed import PresenceChange, PresentAdmin
from shared.api.dependencies import DbSession
from shared.api.routing import ApiRouter
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, problem_responses

router = ApiRouter(
    prefix="/api/v1/admin",
    tags=["Desk"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)

_STILL_VIEWING = Viewing()


@router.post(
    "/conversations/{conversation_id}/viewing", summary="Report who is viewing", responses=problem_responses(NotFound)
)
async def note_viewing(
    conversation_id: ConversationId,
    caller: WatchingAdmin,
    request: Request,
    session: DbSession,
    body: Viewing = _STILL_VIEWING,
) -> Viewers:
    """Report that the admin is viewing a conversation, and return others who viewed it in the last 30 s.

    Call it every 15 s while the conversation is open, and with `gone` when it is closed. While the admin is writing a
    reply, call it with `writing` every few seconds. Admins' streams get each change as the event `presence`.
    """
    viewers: Sequence[User] = ()
    if body.gone:
        is_change = await presence.remove_viewer(session, conversation_id, caller.id)
    else:
        viewers, is_new = await presence.record_viewer(session, conversation_id, caller.id)
        is_change = is_new or body.writing is not None
    if is_change:
        name = next((viewer.name for viewer in viewers if viewer.id == caller.id), caller.name)
        change = PresenceChange(
            conversation_id=conversation_id,
            admin=PresentAdmin(id=caller.id, name=name or caller.id),
            viewing=not body.gone,
            writing=False if body.gone else body.writing,
        )
        api_state(request).presence_feed.send(change)
    return Viewers.of(viewers, caller.id)
