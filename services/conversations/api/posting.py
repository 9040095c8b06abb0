"""Save a message that was posted over the API."""

from fastapi import Request

from services.conversations.identity.sessions import check_session
from services.conversations.messaging.posting import Post, Posted, post_message
from shared.auth import Principal
from shared.database import request_transaction


async def save(request: Request, caller: Principal, post: Post) -> Posted:
    """Save a caller's message as `post_message` does, batched with others that arrive at the same time."""
    state = request.app.state
    if caller.session_id is None:
        await state.known_users.ensure(caller, state.sessions)
        posted: Posted = await state.group_commit.save(post)
        return posted
    async with request_transaction(state.sessions) as session:
        await check_session(session, caller)  # an ended session must not post
        return await post_message(session, post)
