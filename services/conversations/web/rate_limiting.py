"""Rate limits of forms. They are enforced before the database is used, and shown on the form's page."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request

from services.conversations.api.rate_limiting import Writing, enforce_limits
from services.conversations.api.schemas.requests import (
    AdminCreateConversation,
    CreateConversation,
    EditConversation,
    PostMessage,
)
from services.conversations.errors import RateLimited
from services.conversations.web.auth import read_submission
from services.conversations.web.forms import read_form
from shared.auth.tokens import SessionToken
from shared.settings import Role


def _refusal(kind: type[Writing], role: Role) -> Callable[..., Coroutine[Any, Any, RateLimited | None]]:
    async def enforce(request: Request, token: Annotated[SessionToken, Depends(read_submission)]) -> RateLimited | None:
        form = await read_form(request, kind, str)
        if form.body is not None and token.principal.role is role:
            try:
                await enforce_limits(request, token.principal, form.body, form.key)
            except RateLimited as refusal:
                return refusal
        return None

    return enforce


# None, or the exceeded limit. In a route they come before the page context, which is loaded from the database.
MessageRefusal = Annotated[RateLimited | None, Depends(_refusal(PostMessage, Role.CUSTOMER))]
ConversationRefusal = Annotated[RateLimited | None, Depends(_refusal(CreateConversation, Role.CUSTOMER))]
EditRefusal = Annotated[RateLimited | None, Depends(_refusal(EditConversation, Role.ADMIN))]
AdminConversationRefusal = Annotated[RateLimited | None, Depends(_refusal(AdminCreateConversation, Role.ADMIN))]
