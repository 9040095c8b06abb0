"""Who calls, from which side: bearer tokens of the store, and the tokens in the cookies of browsers' sessions.

A session's token names its session in `sid`, and in `csrf` what its pages have to show. It counts in the cookie only,
and there no other does. `csrf` is what tells it: identity providers have a `sid` of their own.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import jwt
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError

from shared.cookies import CSRF_HEADER, SAFE_METHODS, check_csrf, read_cookie
from shared.keys import MAX_TOKEN, ProviderKeys
from shared.people import Address, LocaleTag, StoreId, ZoneName
from shared.problems import Forbidden, Unauthenticated
from shared.settings import Role as Role  # noqa: PLC0414 - callers find it beside Principal
from shared.settings import TokenSettings
from shared.text import Name

ALGORITHM = "HS256"
LEEWAY = timedelta(seconds=30)
SESSION_TOKEN_LIFETIME = timedelta(minutes=10)


class _SessionClaims(BaseModel):
    sid: UUID
    csrf: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]
    role: Literal["customer", "admin"]


_SUBJECT: TypeAdapter[str] = TypeAdapter(StoreId)
_CLAIMS: Mapping[str, TypeAdapter[str]] = {
    "email": TypeAdapter(Address),
    "name": TypeAdapter(Name),
    "locale": TypeAdapter(LocaleTag),
    "zoneinfo": TypeAdapter(ZoneName),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: a verified token's content. Claims that are missing or unusable are None.

    With a `session_id` it is a browser by its cookie; whether the session still lives is known to its row alone. Else
    `expires_at` is when the token counts no longer; two tokens of the same content are equal.
    """

    id: str
    role: Role
    email: str | None = None
    name: str | None = None
    locale: str | None = None
    zoneinfo: str | None = None
    session_id: UUID | None = None
    expires_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class SessionToken:
    """What a session's cookie says: whose it is, what its pages have to show, and since when it says so."""

    principal: Principal
    session_id: UUID
    csrf: str
    issued_at: datetime


async def identify(request: Request, token: str, *, max_age: timedelta | None = None) -> Principal:
    """Return who a token of the store speaks for, by the settings and the provider's keys in `app.state`.

    As `verify_token`; besides it raises `Unavailable` while the keys that are needed could not be fetched yet.
    """
    keys: ProviderKeys | None = request.app.state.keys
    key = await keys.find(token) if keys is not None else None
    return verify_token(token, request.app.state.settings, key, max_age=max_age)


def verify_token(
    token: str, settings: TokenSettings, key: jwt.PyJWK | None = None, *, max_age: timedelta | None = None
) -> Principal:
    """Return who a token of the store speaks for, or raise `Unauthenticated` with the reason.

    It is signed with this key, by the key's own algorithm; without one, with a secret, by HS256. With `max_age`, one
    that was issued longer ago is refused as well.
    """
    claims = _decode(token, settings, key)
    if "csrf" in claims:
        raise Unauthenticated("The token is a browser session's, which counts in its cookie only.")
    if max_age is not None and _issued_at(claims) < datetime.now(UTC) - max_age - LEEWAY:
        raise Unauthenticated("The token is too old for this.")
    profile: dict[str, Any] = {name: _claim(claims, name) for name in _CLAIMS}
    return Principal(id=_subject(claims), role=_role(claims, settings), **profile, expires_at=_expires_at(claims))


def verify_session_token(token: str, settings: TokenSettings, *, may_be_expired: bool = False) -> SessionToken:
    """Return what a session's cookie says, or raise `Unauthenticated` with the reason.

    One that has expired still tells which session it was of, for whoever then asks the session's row.
    """
    claims = _decode(token, settings, verify_exp=not may_be_expired)
    role = _at_path(claims, settings.auth_role_claim)  # as it was issued here: not what the store calls its roles
    try:
        said = _SessionClaims.model_validate({**claims, "role": role})
    except ValidationError:
        raise Unauthenticated("The cookie is not a session's.") from None
    principal = Principal(id=_subject(claims), role=Role(said.role), session_id=said.sid)
    return SessionToken(principal, said.sid, said.csrf, _issued_at(claims))


def issue_session_token(settings: TokenSettings, user_id: str, role: Role, session_id: UUID, csrf: str) -> str:
    """Sign what a session's cookie holds, for ten minutes."""
    claims = store_claims(settings, user_id, role) | {"sid": str(session_id), "csrf": csrf}
    return issue_token(settings, claims, SESSION_TOKEN_LIFETIME)


def issue_token(settings: TokenSettings, claims: Mapping[str, Any], lifetime: timedelta) -> str:
    """Sign claims with the newest secret, as the store would."""
    now = datetime.now(UTC)
    times = {"iat": now, "exp": now + lifetime, "aud": settings.auth_audience}
    issuer = {"iss": settings.auth_issuer} if settings.auth_issuer else {}
    key = settings.auth_secret[0].get_secret_value()
    return jwt.encode({**claims, **times, **issuer}, key, algorithm=ALGORITHM)


def store_claims(settings: TokenSettings, sub: str, role: str, **profile: str | None) -> dict[str, Any]:
    """Make the claims that the store's identity provider would, with the role where it is looked for."""
    role_claim: Any = role
    for part in reversed(settings.auth_role_claim.split(".")):
        role_claim = {part: role_claim}
    return {**role_claim, "sub": sub, **{claim: value for claim, value in profile.items() if value is not None}}


def _decode(
    token: str, settings: TokenSettings, key: jwt.PyJWK | None = None, *, verify_exp: bool = True
) -> dict[str, Any]:
    failure = "The token is not valid."
    if len(token) > MAX_TOKEN:
        raise Unauthenticated(failure)
    # What the key is says by which algorithm it is used. The token's word for it has to be the same, and never decides.
    secrets = [secret.get_secret_value() for secret in settings.auth_secret]
    for trusted, algorithm in [(key, key.algorithm_name)] if key else [(secret, ALGORITHM) for secret in secrets]:
        try:
            return jwt.decode(
                token,
                trusted,
                algorithms=[algorithm],
                audience=settings.auth_audience,
                issuer=settings.auth_issuer,
                leeway=LEEWAY,
                options={"require": ["sub", "iat", "exp", "aud"], "verify_exp": verify_exp},
            )
        except jwt.InvalidSignatureError:
            continue  # the other secret, while rotating
        except jwt.ExpiredSignatureError:
            failure = "The token has expired."
            break
        except (jwt.PyJWTError, ValueError):
            break
    raise Unauthenticated(failure)


def _subject(claims: Mapping[str, Any]) -> str:
    try:
        return _SUBJECT.validate_python(claims["sub"])
    except ValidationError:
        raise Unauthenticated("The token's sub is not an id of the store.") from None


def _issued_at(claims: Mapping[str, Any]) -> datetime:
    try:
        return datetime.fromtimestamp(int(claims["iat"]), UTC)
    except (ValueError, OverflowError, OSError):
        raise Unauthenticated("The token is not valid.") from None


def _expires_at(claims: Mapping[str, Any]) -> datetime:
    try:
        return datetime.fromtimestamp(int(claims["exp"]), UTC) + LEEWAY
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return datetime.max.replace(tzinfo=UTC)


def _role(claims: Mapping[str, Any], settings: TokenSettings) -> Role:
    found = _at_path(claims, settings.auth_role_claim)
    values = found if isinstance(found, list) else [found]
    for value in values:
        if isinstance(value, str) and (name := settings.auth_role_map.get(value, value)) in set(Role):
            return Role(name)
    if settings.auth_default_role is not None:
        return settings.auth_default_role
    raise Unauthenticated("The token names no role.")


def _at_path(claims: Mapping[str, Any], path: str) -> Any:
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _claim(claims: Mapping[str, Any], name: str) -> str | None:
    # A claim is a courtesy of the identity provider: one that is unusable is as good as none.
    try:
        return _CLAIMS[name].validate_python(claims.get(name), strict=True) or None
    except ValidationError:
        return None


_bearer = HTTPBearer(auto_error=False, description="A JWT signed by the store.")


async def authenticate(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    """Return who calls, by the token in the header, else by the session's cookie, which alone changes nothing.

    Raises `Unauthenticated`, `Unavailable` or `CsrfFailed`.
    """
    settings: TokenSettings = request.app.state.settings
    if credentials is not None:
        return await identify(request, credentials.credentials)
    cookie = read_cookie(request, settings)
    if cookie is None or "Authorization" in request.headers:
        raise Unauthenticated("A bearer token is needed.")
    found = verify_session_token(cookie, settings)
    if request.method not in SAFE_METHODS:
        check_csrf(request, request.headers.get(CSRF_HEADER), found.csrf)
    return found.principal


def require(*roles: Role) -> Callable[[Principal], Coroutine[Any, Any, Principal]]:
    """Make a dependency that lets in only callers of these roles."""

    async def check(principal: Annotated[Principal, Depends(authenticate)]) -> Principal:
        if principal.role not in roles:
            raise Forbidden(f"This is for the role {' or '.join(roles)}, the token says {principal.role}.")
        return principal

    return check
