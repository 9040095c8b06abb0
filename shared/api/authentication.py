"""Authenticate requests by the settings, keys and caches of their application.

An id that is known to be merged is replaced by the person's.
"""

from dataclasses import replace
from datetime import timedelta

from starlette.requests import HTTPConnection

from shared.api.app_state import app_state
from shared.auth.cookies import is_framed
from shared.auth.principal import Principal
from shared.auth.tokens import SessionToken, verify_session_token, verify_token
from shared.problems import Forbidden
from shared.settings import Role


async def authenticate_token(request: HTTPConnection, token: str, *, max_age: timedelta | None = None) -> Principal:
    """Return the caller of a bearer token, like `verify_token`, but verify the same one once a minute.

    Raises `Unavailable` until the required keys have been fetched. With `max_age`, the cache is not used.
    """
    return app_state(request).aliases.resolve(await _verified(request, token, max_age))


async def _verified(request: HTTPConnection, token: str, max_age: timedelta | None) -> Principal:
    state = app_state(request)
    if max_age is None and (cached := state.verified_tokens.find(token)) is not None:
        return cached
    key = await state.keys.find(token) if state.keys is not None else None
    principal = verify_token(token, state.settings, key, max_age=max_age)
    state.verified_tokens.add(token, principal, principal.expires_at)
    return principal


def authenticate_session_token(request: HTTPConnection, token: str, *, may_be_expired: bool = False) -> SessionToken:
    """Return the content of a session cookie, like `verify_session_token`, but verify the same one once a minute."""
    state = app_state(request)
    session = state.verified_session_tokens.find(token)
    if session is None:
        session = verify_session_token(token, state.settings, may_be_expired=may_be_expired)
        state.verified_session_tokens.add(token, session, session.expires_at)
    if is_framed(request) and session.principal.role is not Role.CUSTOMER:
        raise Forbidden("Only customers can use the messenger.")  # no page may trick an admin into a click
    principal = state.aliases.resolve(session.principal)
    return session if principal is session.principal else replace(session, principal=principal)
