"""Whether what a form brings is over its sender's limits: asked before the database, told on the form's own page."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request

from services.conversations.api.rate_limiting import Writing, enforce_limits
from services.conversations.api.request_schemas import (
    AdminCreateConversation,
    CreateConversation,
    EditConversation,
    PostMessage,
)
from services.conversations.errors import RateLimited
from services.conversations.web.auth import read_submission
from services.conversations.web.forms import read_form
from shared.auth import Role, SessionToken


def _counted(kind: type[Writing], role: Role) -> Callable[..., Coroutine[Any, Any, RateLimited | None]]:
    async def counted(request: Request, token: Annotated[SessionToken, Depends(read_submission)]) -> RateLimited | None:
        form = await read_form(request, kind, str)
        if form.body is not None and token.principal.role is role:
            try:
                await enforce_limits(request, token.principal, form.body, form.key)
            except RateLimited as refusal:
                return refusal
        return None

    return counted


# None, or why nothing is taken for a while. They stand in front of the visitor, for whom the database is asked.
MessageRefusal = Annotated[RateLimited | None, Depends(_counted(PostMessage, Role.CUSTOMER))]
ConversationRefusal = Annotated[RateLimited | None, Depends(_counted(CreateConversation, Role.CUSTOMER))]
EditRefusal = Annotated[RateLimited | None, Depends(_counted(EditConversation, Role.ADMIN))]
AdminConversationRefusal = Annotated[RateLimited | None, Depends(_counted(AdminCreateConversation, Role.ADMIN))]
