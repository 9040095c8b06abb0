"""How a browser's session begins, is renewed and ends."""

import re
from datetime import timedelta
from typing import Annotated, Any, Final

import structlog
from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response

from services.conversations.errors import OriginNotListed, RateLimited, RoleHasNoPages, SessionsClosed
from services.conversations.identity import sessions
from services.conversations.identity.provisioning import provision_user
from services.conversations.rate_limits.policy import Limits
from services.conversations.rules import Side
from services.conversations.settings import ApiSettings
from services.conversations.web.auth import read_session, session_cookie
from services.conversations.web.rendering import ADMIN_ROOT, CUSTOMER_ROOT, PageRoute, pages_of, redirect
from shared.auth import Principal, Role, SessionToken, identify
from shared.cookies import CSRF_HEADER, check_csrf, cookie_header, is_own_origin
from shared.database import DbSession
from shared.problems import CsrfFailed, Forbidden, Problem, Unauthenticated

HOME: Final = {Role.CUSTOMER: CUSTOMER_ROOT, Role.ADMIN: ADMIN_ROOT}

# Visible ASCII without a backslash, which browsers take for a slash; two slashes would begin another host.
_OWN_PATH = re.compile(r"/(?!/)[\x21-\x5b\x5d-\x7e]{0,2000}")

router = APIRouter(prefix="/session", route_class=PageRoute)
home = APIRouter(include_in_schema=False, route_class=PageRoute)  # the origin's own address
scripts = APIRouter(prefix="/session", include_in_schema=False)  # whose errors are no pages
log = structlog.get_logger()


_ANSWERS: dict[int | str, dict[str, Any]] = {
    303: {"description": "The session has begun; `Location` is `next`."},
    **{
        status: {"description": said, "content": {"text/html": {}}}
        for status, said in {
            401: "The token is refused: the page says why.",
            403: "The form came from an origin that CHATS_STORE_ORIGINS does not list, or the role has no pages.",
            408: "The form did not arrive in time.",
            413: "The form is too large.",
            414: "The URL is too long.",
            422: "The form cannot be read.",
            429: "Too many were refused from this address, and this token is refused, too.",
            431: "The headers, most likely the cookies, are too large.",
            503: "CHATS_AUTH_SECRET is not set, or the database does not answer.",
        }.items()
    },
}


@router.post(
    "",
    operation_id="begin_session",
    tags=["Browser"],
    status_code=303,
    response_class=Response,
    responses=_ANSWERS,
)
async def begin_session(
    request: Request,
    session: DbSession,
    token: Annotated[str, Form(description="A token as the API takes it, issued less than 5 minutes ago.")] = "",
    wanted: Annotated[str, Form(alias="next", description="A path of this origin to go to.")] = "",
) -> Response:
    """Let a browser in by a fresh token of the store, and lead it to a path of this origin.

    A form of the store's page posts this; errors are pages. The session is a new one always: an id that somebody else
    has given the browser is worth nothing. The one that the browser had ends.
    """
    settings: ApiSettings = request.app.state.settings
    principal = await _hand_over(request, token, settings)
    await _limits(request).allow_sign_in(principal)
    former = await _find_session(request)
    await provision_user(session, principal)
    # Of the same person the forms in the browser's other tabs keep working; of another person they must not.
    csrf = former.csrf if former is not None and _is_same(former.principal, principal) else None
    begun = await sessions.begin(session, principal.id, Side(principal.role), csrf=csrf)
    if former is not None:
        await sessions.end(session, former.session_id)
    visitor = Principal(principal.id, principal.role, session_id=begun.id)
    target = wanted if _OWN_PATH.fullmatch(wanted) else HOME[principal.role]
    return _with_cookie(redirect(target), session_cookie(settings, visitor, begun.csrf))


@home.get("/")
@router.get("", include_in_schema=False)
async def lead_home(request: Request) -> Response:
    """Lead whoever comes back to this address to the pages of their side; those ask strangers to sign in."""
    former = await _find_session(request)
    return redirect(HOME[former.principal.role if former is not None else Role.CUSTOMER])


@scripts.post("/renew", status_code=204)
async def renew_session(
    request: Request, session: DbSession, token: Annotated[SessionToken, Depends(read_session)]
) -> Response:
    """Give a script of our own pages a fresh cookie, unless the session is over. To renew it is not to use it."""
    check_csrf(request, request.headers.get(CSRF_HEADER), token.csrf)
    await _limits(request).allow_renewal(token.principal)
    csrf = await sessions.check_session(session, token.principal, used=False)
    cookie = session_cookie(request.app.state.settings, token.principal, csrf)
    return _with_cookie(Response(status_code=204), cookie)


@router.post("/end", include_in_schema=False)
async def end_session(
    request: Request,
    session: DbSession,
    csrf_token: Annotated[str, Form()] = "",
    *,
    everywhere: Annotated[bool, Form()] = False,
) -> Response:
    """End the browser's session, or all of its user's, and lead back to the store. One that is over stays so."""
    settings: ApiSettings = request.app.state.settings
    if not is_own_origin(request):  # else any page could take away the cookie, which it need not even see for that
        raise CsrfFailed("This came from a page of another origin.")
    token = await _find_session(request)
    if token is not None:
        check_csrf(request, csrf_token, token.csrf)
        await _end(session, token, everywhere=everywhere)
    if settings.store_url:
        answer: Response = redirect(settings.store_url)
    else:
        answer = pages_of(request).render("signed_out.html", None)
    return _with_cookie(answer, cookie_header(settings, "", timedelta(0)))


async def _end(session: DbSession, token: SessionToken, *, everywhere: bool) -> None:
    if everywhere:
        try:  # a cookie that was left somewhere when its session ended must not end others
            await sessions.check_session(session, token.principal, used=False)
        except Unauthenticated:
            return
        await sessions.end_all_sessions(session, token.principal.id)
    else:
        await sessions.end(session, token.session_id)


async def _find_session(request: Request) -> SessionToken | None:
    try:
        return await read_session(request)
    except Unauthenticated:
        return None


async def _hand_over(request: Request, token: str, settings: ApiSettings) -> Principal:
    """Return whom the store sends, or refuse, sooner if many were refused from this address.

    The token is looked at first, always: many people may share an address, and nobody's failures refuse a good token.
    """
    request.app.state.sign_in_origins.note(_address(request))
    try:
        if not settings.auth_secret:
            raise SessionsClosed
        _check_store(request, settings)
        principal = await identify(request, token, max_age=timedelta(seconds=settings.session_token_max_age_seconds))
        if principal.role not in HOME:
            raise RoleHasNoPages
    except Problem as refused:
        log.info("session refused", reason=refused.extra.get("reason", refused.code), detail=refused.detail)
        if isinstance(refused, Unauthenticated | Forbidden):
            await _count_refusal(request, refused)
        raise
    return principal


async def _count_refusal(request: Request, refused: Problem) -> None:
    try:
        await _limits(request).allow_failed_sign_in(_address(request))
    except RateLimited as limited:
        raise limited from refused  # the page says what is wrong with the token all the same


def _check_store(request: Request, settings: ApiSettings) -> None:
    """Make sure that a hand-over comes from a page of the store, or of our own, or from no browser at all.

    Anybody with an account at the store has a token: a page of theirs that posts it would let others write under
    their name. Browsers tell the origin of every form, and `null` where it is hidden, which is nobody's.
    """
    origin = request.headers.get("Origin", "").lower()
    if origin not in settings.store_origins and not is_own_origin(request):
        raise OriginNotListed(origin)


def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


def _address(request: Request) -> str:
    """Return the address that somebody signs in from, as a trusted proxy tells it (CHATS_TRUSTED_PROXIES)."""
    return request.client.host if request.client else ""


def _is_same(one: Principal, other: Principal) -> bool:
    return (one.id, one.role) == (other.id, other.role)


def _with_cookie(answer: Response, cookie: str) -> Response:
    answer.headers["Cache-Control"] = "no-store"
    answer.headers.append("Set-Cookie", cookie)
    return answer
