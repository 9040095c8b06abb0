"""Rate limits of callers, for the API and the pages.

They are enforced after the body is validated and before a database connection is acquired, so that rejected requests
cost no connection. A route with a database session therefore gets its body from a dependency that counts.
"""

from typing import Annotated

from fastapi import Depends, Request

from services.conversations.api.dependencies import IdempotencyKeyHeader
from services.conversations.api.schemas.requests import (
    AdminCreateConversation,
    CreateConversation,
    EditConversation,
    PostMessage,
)
from services.conversations.api.state import api_state
from services.conversations.rate_limits.policy import LimitedAction
from shared.api.dependencies import require
from shared.auth.principal import Principal
from shared.settings import Role

Writing = PostMessage | EditConversation | CreateConversation | AdminCreateConversation


async def enforce_limits(request: Request, caller: Principal, body: Writing, key: str | None) -> None:
    """Count a write against the caller's limits, or raise `RateLimited`. Setting only a status is not limited."""
    actions = [LimitedAction.CONVERSATION] if isinstance(body, CreateConversation) else []
    text = body.reply_body if isinstance(body, EditConversation) else body.body
    if text or body.attachments:
        actions.append(LimitedAction.MESSAGE)
    await api_state(request).limits.allow(caller, actions, path=request.scope["path"], key=key)


async def _count_edit(
    request: Request,
    body: EditConversation,
    caller: Annotated[Principal, Depends(require(Role.ADMIN))],
    key: IdempotencyKeyHeader = None,
) -> EditConversation:
    await enforce_limits(request, caller, body, key)
    return body


CountedEdit = Annotated[EditConversation, Depends(_count_edit)]
