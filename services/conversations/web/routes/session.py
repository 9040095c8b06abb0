"""Start, renew and end a browser's session."""

import re
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import quote

import structlog
from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response

from services.conversations.api.state import api_state
from services.conversations.audit.recording import Act, record
from services.conversations.errors import NoToken, OriginNotListed, RateLimited, RoleHasNoPages, SessionsClosed
from services.conversations.identity import sessions
from services.conversations.identity.provisioning import provision_user
from services.conversations.rules import AuditAction, Side
from services.conversations.settings import ApiSettings
from services.conversations.web.auth import read_session, session_cookie
from services.conversations.web.rendering import ADMIN_ROOT, CUSTOMER_ROOT, PageRoute, pages_of, redirect
from shared.api.authentication import authenticate_token
from shared.api.dependencies import DbSession
from shared.auth.cookies import CSRF_HEADER, check_csrf, cookie_header, is_own_origin
from shared.auth.principal import Principal
from shared.auth.tokens import SessionToken
from shared.database.transactions import driver_connection
from shared.problems import CsrfFailed, Forbidden, Problem, Unauthenticated
from shared.settings import Role

HOME: Final = {Role.CUSTOMER: CUSTOMER_ROOT, Role.ADMIN: ADMIN_ROOT}

_UNENCODED = re.compile(r"[ \u00a1-\U0010ffff]+")  # what stores forget to encode in a query
# Visible ASCII without a backslash, which browsers treat as a slash; two slashes would start another host.
_OWN_PATH = re.compile(r"/(?!/)[\x21-\x5b\x5d-\x7e]{0,2000}")

router = APIRouter(prefix="/session", route_class=PageRoute)
home = APIRouter(include_in_schema=False, route_class=PageRoute)  # the origin's root
scripts = APIRouter(prefix="/session", include_in_schema=False)  # with errors as JSON
log = structlog.get_logger()


_RESPONSES: dict[int | str, dict[str, Any]] = {
    303: {"description": "The session has started; `Location` is `next`."},
    **{
        status: {"description": description, "content": {"text/html": {}}}
        for status, description in {
            401: "The token is rejected; the page says why.",
            403: "The form came from an origin that CHATS_STORE_ORIGINS does not list, or the role has no pages.",
            408: "The form did not arrive in time.",
            413: "The form is too large.",
            414: "The URL is too long.",
            422: "The form is invalid.",
            429: "Too many rejected sign-ins from this address, and this token is rejected as well.",
            431: "The headers, most likely the cookies, are too large.",
            503: "CHATS_AUTH_SECRET is not set, or the database is unavailable.",
        }.items()
    },
}


@router.post(
    "",
    operation_id="begin_session",
    summary="Start a browser session",
    tags=["Sign-in"],
    status_code=303,
    response_class=Response,
    responses=_RESPONSES,
)
async def begin_session(
    request: Request,
    session: DbSession,
    token: Annotated[
        str, Form(description="The same kind of token as for the API, issued less than 5 minutes ago.")
    ] = "",
    next_path: Annotated[str, Form(alias="next", description="The path of this origin to redirect to.")] = "",
) -> Response:
    """Start a browser session with a fresh token of the store, and redirect to a path of this origin.

    A form on the store's page posts this; errors are shown as pages. The session is always new, which prevents session
    fixation. The browser's earlier session ends.
    """
    settings = api_state(request).settings
    principal = await verify_sign_in(request, token, settings)
    await api_state(request).limits.allow_sign_in(principal)
    previous = await find_session(request)
    await provision_signed_in(session, principal)
    # With the same CSRF token, forms in other tabs of the same user keep working. Those of another user must not.
    csrf = previous.csrf if previous is not None and is_same_user(previous.principal, principal) else None
    started = await sessions.begin(session, principal.id, Side(principal.role), csrf=csrf)
    if previous is not None:
        await sessions.end(session, previous.session_id)
    await _record(session, principal, AuditAction.SESSION_BEGUN)
    user = replace(principal, session_id=started.id)
    path, mark, query = next_path.partition("?")
    wanted = path + mark + _UNENCODED.sub(lambda found: quote(found[0], errors="replace"), query)
    target = wanted if _OWN_PATH.fullmatch(wanted) else HOME[principal.role]
    return with_cookie(redirect(target), session_cookie(request, user, started.csrf))


@home.get("/")
@router.get("", include_in_schema=False)
async def go_home(request: Request) -> Response:
    """Redirect to the pages of the session's role, which ask for sign-in if there is no session."""
    previous = await find_session(request)
    return redirect(HOME[previous.principal.role if previous is not None else Role.CUSTOMER])


@scripts.post("/renew", status_code=204)
async def renew_session(
    request: Request, session: DbSession, token: Annotated[SessionToken, Depends(read_session)]
) -> Response:
    """Renew the cookie for a script of our pages, unless the session has ended. This does not extend the session."""
    check_csrf(request, request.headers.get(CSRF_HEADER), token.csrf)
    await api_state(request).limits.allow_renewal(token.principal)
    connection = await driver_connection(session)
    csrf = await sessions.check_session(connection, token.principal, used=False)
    cookie = session_cookie(request, token.principal, csrf)
    return with_cookie(Response(status_code=204), cookie)


@router.post("/end", include_in_schema=False)
async def end_session(
    request: Request,
    session: DbSession,
    csrf_token: Annotated[str, Form()] = "",
    *,
    everywhere: Annotated[bool, Form()] = False,
) -> Response:
    """End the browser's session, or all sessions of its user, and redirect to the store."""
    settings = api_state(request).settings
    if not is_own_origin(request):  # else any site could sign users out
        raise CsrfFailed("The request comes from another origin.")
    token = await find_session(request)
    if token is not None:
        check_csrf(request, csrf_token, token.csrf)
        await _end(session, token, everywhere=everywhere)
    if settings.store_url:
        response: Response = redirect(settings.store_url)
    else:
        response = pages_of(request).render(request, "signed_out.html", None)
    return with_cookie(response, cookie_header(request, settings, "", timedelta(0)))


async def _end(session: DbSession, token: SessionToken, *, everywhere: bool) -> None:
    if everywhere:
        try:  # the cookie of an ended session must not end others
            await sessions.check_session(await driver_connection(session), token.principal, used=False)
        except Unauthenticated:
            return
        await sessions.end_all_sessions(session, token.principal.id)
    elif not await sessions.end(session, token.session_id):
        return
    await _record(session, token.principal, AuditAction.SESSION_ENDED, {"everywhere": everywhere})


async def _record(session: DbSession, user: Principal, action: AuditAction, data: dict[str, Any] | None = None) -> None:
    if user.role is Role.ADMIN:  # nothing is recorded about customers
        await record(session, Act(action, user.id, data=data))


async def find_session(request: Request) -> SessionToken | None:
    """Return the token in the session's cookie, or None. It may be expired, and the session ended."""
    try:
        return await read_session(request)
    except Unauthenticated:
        return None


async def verify_sign_in(request: Request, token: str, settings: ApiSettings) -> Principal:
    """Return the user in the store's token, or raise. Rejected tokens are limited by address.

    The token is always verified first: many people may share an address, and a valid token is never limited.
    """
    api_state(request).sign_in_origins.note(_address(request))
    try:
        if not settings.auth_secret:
            raise SessionsClosed
        _check_store(request, settings)
        if not token:
            raise NoToken
        principal = await authenticate_token(
            request, token, max_age=timedelta(seconds=settings.session_token_max_age_seconds)
        )
        if principal.role not in HOME:
            raise RoleHasNoPages
    except Problem as problem:
        _log_refusal(problem)
        if isinstance(problem, Unauthenticated | Forbidden):
            await _limit_refusals(request, problem)
        raise
    return principal


async def provision_signed_in(session: DbSession, principal: Principal) -> None:
    """Provision the user of a verified token, or raise for one whom the store has deleted or given another role."""
    try:
        await provision_user(session, principal)
    except (Unauthenticated, Forbidden) as problem:
        _log_refusal(problem)
        raise


def _log_refusal(problem: Problem) -> None:
    log.info("session refused", reason=problem.extra.get("reason", problem.code), detail=problem.detail)


async def _limit_refusals(request: Request, problem: Problem) -> None:
    try:
        await api_state(request).limits.allow_failed_sign_in(_address(request))
    except RateLimited as limited:
        raise limited from problem  # the page also shows what is wrong with the token


def _check_store(request: Request, settings: ApiSettings) -> None:
    """Check that the form comes from a page of the store or of ours, or not from a browser.

    Anyone with an account at the store has a token. If their site could post it, its visitors would be signed in under
    that account. Browsers send the origin of every form, or `null` if it is hidden, which is never allowed.
    """
    origin = request.headers.get("Origin", "").lower()
    if origin not in settings.store_origins and not is_own_origin(request):
        raise OriginNotListed(origin)


def _address(request: Request) -> str:
    """Return the client's address, which a trusted proxy may have forwarded (CHATS_TRUSTED_PROXIES)."""
    return request.client.host if request.client else ""


def is_same_user(first: Principal, second: Principal) -> bool:
    """Return whether two callers are the same user in the same role."""
    return (first.id, first.role) == (second.id, second.role)


def with_cookie(response: Response, cookie: str) -> Response:
    """Return the response with a cookie, which no cache stores."""
    response.headers["Cache-Control"] = "no-store"
    response.headers.append("Set-Cookie", cookie)
    return response
