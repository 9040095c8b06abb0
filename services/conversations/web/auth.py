"""Authentication of pages by the browser's session, and renewal of its cookie.

A page depends on `CustomerContext` or `AdminContext`, the handler of a form on `CustomerSubmission` or
`AdminSubmission`. For methods that change something, all of them also check the form's field `csrf_token`, so no page
can forget it.
"""

import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import Depends, Query, Request
from starlette.datastructures import FormData, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.conversations.api.dependencies import Prefetch
from services.conversations.identity import sessions
from services.conversations.identity.sessions import IDLE, PageContext
from services.conversations.rules import COUNT_LIMIT
from shared.api.app_state import app_state
from shared.api.authentication import authenticate_session_token
from shared.api.body_size import MAX_BODY_BYTES, too_large
from shared.api.dependencies import DbSession
from shared.auth.cookies import SAFE_METHODS, check_csrf, cookie_header, read_cookie
from shared.auth.principal import Principal
from shared.auth.tokens import SessionToken, issue_session_token
from shared.database.engine import Driver
from shared.database.transactions import driver_connection, request_connection
from shared.problems import Forbidden, Unauthenticated
from shared.settings import Role, TokenSettings

__all__ = ["AdminContext", "AdminSubmission", "CustomerContext", "CustomerSubmission", "PageContext", "RenewedCookies"]

# The forms that may contain files: those of a conversation, and of a new one.
FILE_FORMS: Final = re.compile(rb"/(dashboard/messages|admin/dashboard/conversation)/(new|[0-9a-f-]{36})/")
FILES: Final = "file"  # the field of files
MAX_FORM_FILES: Final = 100  # more than a message may have, so that too many are an error of the field
MAX_FORM_FIELDS: Final = 200  # enough for a bulk delete of 100 conversations
RENEW_AFTER: Final = timedelta(minutes=5)  # half of a token's lifetime, so an active user's token never expires


def session_cookie(request: Request, principal: Principal, csrf: str) -> str:
    """Return the `Set-Cookie` header with a fresh token of the session."""
    settings: TokenSettings = app_state(request).settings
    assert principal.session_id is not None  # noqa: S101 - callers have a session
    token = issue_session_token(
        settings, principal.id, principal.role, principal.session_id, csrf, principal.permissions
    )
    return cookie_header(request, settings, token, IDLE)


async def read_session(request: Request) -> SessionToken:
    """Return the token in the session's cookie, or raise `Unauthenticated`. The token may be expired.

    Whether the session has ended is stored in its row.
    """
    cookie = read_cookie(request, app_state(request).settings)
    if cookie is None:
        raise Unauthenticated("The request has no session cookie.")
    return authenticate_session_token(request, cookie, may_be_expired=True)


async def read_submission(request: Request, token: Annotated[SessionToken, Depends(read_session)]) -> SessionToken:
    """Return the token as `read_session` does, and check the form's CSRF token if the method changes something."""
    if request.method not in SAFE_METHODS:
        check_csrf(request, (await _read_form(request)).get("csrf_token"), token.csrf)
    return token


async def _read_form(request: Request) -> FormData:
    """Read a form, with files only where they belong. Raises `HTTPException` if it has more text than other bodies."""
    has_files = FILE_FORMS.fullmatch(request.scope["raw_path"]) is not None
    form = await request.form(max_files=MAX_FORM_FILES if has_files else 0, max_fields=MAX_FORM_FIELDS)
    text = 0
    for name, value in form.multi_items():
        if isinstance(value, str):
            text += len(value.encode("utf-8", "replace"))
        elif name != FILES:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"Only the field {FILES} may be a file.")
    if text > MAX_BODY_BYTES:
        raise too_large()
    return form


def with_unread_decremented(page_context: PageContext) -> PageContext:
    """Subtract the conversation that was just read from the unread count, unless the count is at the limit."""
    return replace(page_context, unread=page_context.unread - (0 < page_context.unread < COUNT_LIMIT))


def _context(role: Role) -> Callable[..., Coroutine[Any, Any, PageContext]]:
    async def load(
        request: Request,
        session: DbSession,
        prefetch: Prefetch,
        peek: Annotated[bool, Query(include_in_schema=False)] = False,
    ) -> PageContext:
        # A call, because a dependency costs more than what it does.
        token = await read_submission(request, await read_session(request))
        return await _load(request, token, await driver_connection(session), role, used=not (peek or prefetch))

    return load


def _submission(role: Role) -> Callable[..., Coroutine[Any, Any, PageContext]]:
    async def load(request: Request, token: Annotated[SessionToken, Depends(read_submission)]) -> PageContext:
        # Returns its connection, so that the request holds none while it waits for concurrent posts.
        async with request_connection(app_state(request).acquire) as connection:
            return await _load(request, token, connection, role, used=True)

    return load


async def _load(request: Request, token: SessionToken, connection: Driver, role: Role, *, used: bool) -> PageContext:
    page_context = await sessions.load_page_context(connection, token.principal, used=used)
    request.state.page_context = page_context  # for the error page
    if token.issued_at < datetime.now(UTC) - RENEW_AFTER:
        request.state.renewed_cookie = session_cookie(request, page_context.principal, page_context.csrf)
    if page_context.principal.role is not role:
        raise Forbidden(f"This page requires the {role} role.")
    return page_context


CustomerContext = Annotated[PageContext, Depends(_context(Role.CUSTOMER), scope="function")]
AdminContext = Annotated[PageContext, Depends(_context(Role.ADMIN), scope="function")]

# For the handlers of forms: these return the connection that loaded them.
CustomerSubmission = Annotated[PageContext, Depends(_submission(Role.CUSTOMER))]
AdminSubmission = Annotated[PageContext, Depends(_submission(Role.ADMIN))]


class RenewedCookies:
    """ASGI middleware that adds a renewed cookie to every response, also to redirects and errors."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and add the cookie to the response."""
        state = scope.setdefault("state", {})

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and "renewed_cookie" in state:
                MutableHeaders(scope=message).append("Set-Cookie", state["renewed_cookie"])
            await send(message)

        await self.app(scope, receive, with_cookie)
