"""Who looks at a page: a browser with a live session, found in one statement, whose cookie is kept fresh.

A page asks for `CustomerContext` or `AdminContext`. With a method that changes something they let in nothing but a
form of our own pages, by its field `csrf_token`: no page can forget to check that.
"""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import Depends, Query, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.conversations.api.dependencies import Prefetch
from services.conversations.identity import sessions
from services.conversations.identity.sessions import IDLE, PageContext
from services.conversations.rules import COUNT_LIMIT
from shared.auth import Principal, Role, SessionToken, issue_session_token, verify_session_token
from shared.cookies import SAFE_METHODS, check_csrf, cookie_header, read_cookie
from shared.database import DbSession
from shared.problems import Forbidden, Unauthenticated
from shared.settings import TokenSettings

__all__ = ["AdminContext", "AdminSubmission", "CustomerContext", "CustomerSubmission", "PageContext", "RenewedCookies"]

FIELDS: Final = 200  # of a form: the hundred conversations that are deleted at once, and what else a form has
RENEW_AFTER: Final = timedelta(minutes=5)  # half of a token's life: whoever works is never shown an expired one


def session_cookie(settings: TokenSettings, principal: Principal, csrf: str) -> str:
    """Make the `Set-Cookie` header that gives a browser a fresh token of its session."""
    assert principal.session_id is not None  # noqa: S101 - callers have come by a session
    token = issue_session_token(settings, principal.id, principal.role, principal.session_id, csrf)
    return cookie_header(settings, token, IDLE)


async def read_session(request: Request) -> SessionToken:
    """Return what the session's cookie says, also when it has expired, or raise `Unauthenticated`.

    Whether the session is over is known to its row.
    """
    settings: TokenSettings = request.app.state.settings
    cookie = read_cookie(request, settings)
    if cookie is None:
        raise Unauthenticated("There is no session.")
    return verify_session_token(cookie, settings, may_be_expired=True)


async def read_submission(request: Request, token: Annotated[SessionToken, Depends(read_session)]) -> SessionToken:
    """Do the same, and let a method that changes something in only by a form of our own pages."""
    if request.method not in SAFE_METHODS:
        check_csrf(request, (await request.form(max_files=0, max_fields=FIELDS)).get("csrf_token"), token.csrf)
    return token


def with_unread_decremented(visitor: PageContext) -> PageContext:
    """Return a visitor who has just read a conversation that was counted as unread; a count that stopped stays."""
    return replace(visitor, unread=visitor.unread - (0 < visitor.unread < COUNT_LIMIT))


def _visitor(role: Role) -> Callable[..., Coroutine[Any, Any, PageContext]]:
    async def visitor(
        request: Request,
        token: Annotated[SessionToken, Depends(read_submission)],
        session: DbSession,
        prefetch: Prefetch,
        peek: Annotated[bool, Query(include_in_schema=False)] = False,
    ) -> PageContext:
        found = await sessions.load_page_context(session, token.principal, used=not (peek or prefetch))
        request.state.visitor = found  # for the page that says what is wrong
        if token.issued_at < datetime.now(UTC) - RENEW_AFTER:
            request.state.renewed_cookie = session_cookie(request.app.state.settings, found.principal, found.csrf)
        if found.principal.role is not role:
            raise Forbidden(f"This page is for the role {role}, and this is a session of {found.principal.role}.")
        return found

    return visitor


CustomerContext = Annotated[PageContext, Depends(_visitor(Role.CUSTOMER), scope="function")]
AdminContext = Annotated[PageContext, Depends(_visitor(Role.ADMIN), scope="function")]

# The same, and a reader of a form's handler sees that it is one.
CustomerSubmission = CustomerContext
AdminSubmission = AdminContext


class RenewedCookies:
    """ASGI middleware: a cookie that was renewed goes out with whatever the answer is, a redirect or an error too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        state = scope.setdefault("state", {})

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and "renewed_cookie" in state:
                MutableHeaders(scope=message).append("Set-Cookie", state["renewed_cookie"])
            await send(message)

        await self.app(scope, receive, with_cookie)
