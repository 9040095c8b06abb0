"""Dependencies of routes, for FastAPI: the caller by role, the database session, and the page of a list."""

import hmac
from collections.abc import AsyncIterator
from functools import cache
from typing import Annotated

import structlog
from fastapi import Depends, Header, Query, Request
from fastapi.security import HTTPBearer
from sqlalchemy.ext.asyncio import AsyncSession

from shared.api.app_state import app_state
from shared.api.authentication import authenticate_session_token, authenticate_token
from shared.auth.cookies import CSRF_HEADER, SAFE_METHODS, check_csrf, read_cookie
from shared.auth.principal import Principal
from shared.database.errors import is_retryable_rollback
from shared.database.transactions import RolledBack, request_transaction
from shared.paging import MAX_LIMIT
from shared.problems import Forbidden, TokenRefused, Unauthenticated, Unavailable
from shared.settings import Role

log = structlog.get_logger()


class RequireRole(HTTPBearer):
    """A dependency that admits callers with one of some roles, by bearer token or session cookie.

    It is a single dependency, because FastAPI's overhead for each one is as high as the work done here.
    """

    def __init__(self, *roles: Role) -> None:
        super().__init__(auto_error=False, scheme_name="HTTPBearer", description="A JWT signed by the store.")
        self.roles = roles

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override] # returns the caller, not the credentials
        """Return the caller. Raise `Unauthenticated`, `Unavailable`, `CsrfFailed` or `Forbidden`."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip()
        is_bearer = scheme.lower() == "bearer" and token
        try:
            principal = await authenticate_token(request, token) if is_bearer else _by_cookie(request)
        except TokenRefused as refused:
            log.info("token refused", reason=refused.reason, detail=refused.detail)
            raise
        if principal.role not in self.roles:
            allowed = " or ".join(self.roles)
            raise Forbidden(f"This endpoint requires the {allowed} role.")
        return principal


require = cache(RequireRole)
"""Return the dependency for some roles. Equal roles give the same one, which FastAPI then runs once per request."""


def _by_cookie(request: Request) -> Principal:
    """Return the caller of a session cookie. Unsafe methods also need the CSRF token."""
    settings = app_state(request).settings
    cookie = read_cookie(request, settings)
    if cookie is None or "Authorization" in request.headers:
        raise Unauthenticated("A bearer token is required.")
    session = authenticate_session_token(request, cookie)
    if request.method not in SAFE_METHODS:
        check_csrf(request, request.headers.get(CSRF_HEADER), session.csrf)
    return session.principal


async def check_feed_secret(request: Request, authorization: Annotated[str, Header()] = "") -> None:
    """Admit only the other service. Raises `Unauthenticated`."""
    secret = app_state(request).settings.feed_secret
    expected = f"Bearer {secret.get_secret_value()}" if secret else ""
    if not expected or not hmac.compare_digest(authorization.encode(), expected.encode()):
        raise Unauthenticated("Missing or wrong CHATS_FEED_SECRET.")


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    try:
        async with request_transaction(app_state(request).sessions) as session:
            yield session
    except Unavailable as error:
        if is_retryable_rollback(error.__cause__):
            raise RolledBack from error
        raise


# scope="function" commits before the response is sent. The default would send it first and commit later.
DbSession = Annotated[AsyncSession, Depends(_session, scope="function")]

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Maximum number of items on a page.")]
Cursor = Annotated[
    str | None, Query(max_length=1000, description="The previous page's `next_cursor`, with the same filters.")
]
