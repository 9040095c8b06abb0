"""What counts against a caller's limits, for the API and the pages alike.

It is counted in front of all that asks the database: what a request wants is known then, no connection is held, and
what is refused costs none. A route that takes a session takes its body from `counted`.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from services.conversations.api.dependencies import IdempotencyKeyHeader
from services.conversations.api.request_schemas import (
    AdminCreateConversation,
    CreateConversation,
    EditConversation,
    PostMessage,
)
from services.conversations.rate_limits.policy import LimitedAction, Limits
from shared.auth import Principal, Role, require

Writing = PostMessage | EditConversation | CreateConversation | AdminCreateConversation
W = TypeVar("W", bound=Writing)


async def enforce_limits(request: Request, caller: Principal, body: Writing, key: str | None) -> None:
    """Count what a caller wants to write, or raise `RateLimited`. To set a status alone is not limited."""
    acts = [LimitedAction.CONVERSATION] if isinstance(body, CreateConversation) else []
    text = body.reply_body if isinstance(body, EditConversation) else body.body
    if text is not None:
        acts.append(LimitedAction.MESSAGE)
    limits: Limits = request.app.state.limits
    await limits.allow(caller, acts, path=request.url.path, key=key)


def _counted(kind: type[W], role: Role) -> Callable[..., Coroutine[Any, Any, W]]:
    async def counted(
        request: Request,
        body: kind,  # type: ignore[valid-type] # FastAPI reads it
        caller: Annotated[Principal, Depends(require(role))],
        key: IdempotencyKeyHeader = None,
    ) -> W:
        await enforce_limits(request, caller, body, key)
        return body

    return counted


CountedConversation = Annotated[CreateConversation, Depends(_counted(CreateConversation, Role.CUSTOMER))]
CountedEdit = Annotated[EditConversation, Depends(_counted(EditConversation, Role.ADMIN))]
CountedAdminConversation = Annotated[AdminCreateConversation, Depends(_counted(AdminCreateConversation, Role.ADMIN))]
