"""The session of the caller of a page of this service, which its cookie names.

Only the conversations service can renew that: a page there, which also asks for sign-in, leads here and says in which
language.
"""

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.api.dependencies import authorize_caller
from shared.api.app_state import app_state
from shared.api.authentication import authenticate_session_token
from shared.auth.cookies import SAFE_METHODS, check_csrf, read_cookie
from shared.auth.tokens import SessionToken
from shared.problems import Forbidden, Unauthenticated
from shared.settings import Role


async def authenticate(request: Request, session: AsyncSession, role: Role) -> SessionToken:
    """Return the token of a session of a role, as the API does. Forms need its CSRF token."""
    cookie = read_cookie(request, app_state(request).settings)
    if cookie is None:
        raise Unauthenticated("The request has no session cookie.")
    token = authenticate_session_token(request, cookie)
    if request.method not in SAFE_METHODS:
        check_csrf(request, (await request.form()).get("csrf_token"), token.csrf)
    await authorize_caller(session, token.principal)
    if token.principal.role is not role:
        raise Forbidden(f"This page requires the {role} role.")
    return token
