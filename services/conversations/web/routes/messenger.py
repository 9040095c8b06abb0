"""The start of the frame in a store's pages: it gets a token of the store's page around it, and begins a session."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from services.conversations.api.state import api_state
from services.conversations.identity import sessions
from services.conversations.rules import Side
from services.conversations.web.auth import session_cookie
from services.conversations.web.framing import ROOT
from services.conversations.web.rendering import PageRoute, pages_of
from services.conversations.web.routes.session import (
    find_session,
    is_same_user,
    provision_signed_in,
    verify_sign_in,
    with_cookie,
)
from shared.api.dependencies import DbSession
from shared.auth.cookies import is_own_origin
from shared.auth.tokens import SessionToken
from shared.database.transactions import driver_connection
from shared.problems import CsrfFailed, Forbidden, Unauthenticated
from shared.settings import Role

router = APIRouter(prefix=ROOT, include_in_schema=False, route_class=PageRoute)
scripts = APIRouter(prefix=ROOT, include_in_schema=False)  # with errors as JSON


@router.get("/start/")
async def start(request: Request) -> Response:
    """Show the page that begins a session. It has no data of anybody."""
    return pages_of(request).render(request, "messenger.html", None)


@scripts.post("/session", status_code=204)
async def begin_framed_session(request: Request, session: DbSession, token: Annotated[str, Form()] = "") -> Response:
    """Begin a customer's session in the frame with a fresh token of the store (201), or go on with theirs (204).

    Only our own script sends this: the store's pages give it the token.
    """
    if not is_own_origin(request):
        raise CsrfFailed("The request came from a page of another origin.")
    principal = await verify_sign_in(request, token, api_state(request).settings)
    if principal.role is not Role.CUSTOMER:
        raise Forbidden("Only customers can use the messenger.")
    await api_state(request).limits.allow_sign_in(principal)
    previous = await find_session(request)
    await provision_signed_in(session, principal)
    if previous is not None and is_same_user(previous.principal, principal) and await _goes_on(session, previous):
        status, user, csrf = 204, previous.principal, previous.csrf
    else:
        started = await sessions.begin(session, principal.id, Side.CUSTOMER)
        status, user, csrf = 201, replace(principal, session_id=started.id), started.csrf
        if previous is not None:
            await sessions.end(session, previous.session_id)
    return with_cookie(Response(status_code=status), session_cookie(request, user, csrf))


async def _goes_on(session: DbSession, previous: SessionToken) -> bool:
    """Return whether a session has not ended, and note that it is used."""
    try:
        await sessions.check_session(await driver_connection(session), previous.principal)
    except Unauthenticated:
        return False
    return True
