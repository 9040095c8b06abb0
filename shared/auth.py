"""Who calls, from which side: bearer tokens of the store, and the tokens in the cookies of browsers' sessions.

A session's token names its session in `sid`, and in `csrf` what its pages have to show. It counts in the cookie only,
and there no other does. `csrf` is what tells it: identity providers have a `sid` of their own.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal
from uuid import UUID

import jwt
from fastapi import Request
from fastapi.security import HTTPBearer
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
REMEMBERED = 60  # seconds that a verified token need not be verified again
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
    `expires_at` is when the token counts no longer, `issued_at` its `iat` in seconds; two of one content are equal.
    """

    id: str
    role: Role
    email: str | None = None
    name: str | None = None
    locale: str | None = None
    zoneinfo: str | None = None
    session_id: UUID | None = None
    expires_at: datetime | None = field(default=None, compare=False)
    issued_at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class SessionToken:
    """What a session's cookie says: whose it is, what its pages have to show, and since when it says so."""

    principal: Principal
    session_id: UUID
    csrf: str
    issued_at: datetime


class VerifiedTokens:
    """Who the tokens speak for that were verified a moment ago: whoever calls again costs a look and no signature.

    They are known by their hashes, until they expire and for a minute at most: as long as a key that the provider has
    taken back may still count.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        self._size = size

    def find(self, token: str) -> Principal | None:
        """Return who a token speaks for, if that is known."""
        until, principal = self._known.get(_digest(token), (0.0, None))
        return principal if time.time() < until else None

    def keep(self, token: str, principal: Principal) -> None:
        """Remember a token that was verified just now."""
        digest, expires_at = _digest(token), principal.expires_at or datetime.max.replace(tzinfo=UTC)
        self._known.pop(digest, None)  # the newest stand last
        self._known[digest] = (min(time.time() + REMEMBERED, expires_at.timestamp()), principal)
        if len(self._known) > self._size:
            self._known.popitem(last=False)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def identify(request: Request, token: str, *, max_age: timedelta | None = None) -> Principal:
    """Return who a token of the store speaks for, by the settings and the provider's keys in `app.state`.

    As `verify_token`; besides it raises `Unavailable` while the keys that are needed could not be fetched yet. With
    `max_age` the token is always looked at anew.
    """
    verified: VerifiedTokens = request.app.state.verified_tokens
    if max_age is None and (known := verified.find(token)) is not None:
        return known
    keys: ProviderKeys | None = request.app.state.keys
    key = await keys.find(token) if keys is not None else None
    principal = verify_token(token, request.app.state.settings, key, max_age=max_age)
    verified.keep(token, principal)
    return principal


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
    return Principal(
        id=_subject(claims),
        role=_role(claims, settings),
        **profile,
        expires_at=_expires_at(claims),
        issued_at=int(_issued_at(claims).timestamp()),
    )


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
    raise Unauthenticated("The token names no role that is known here.")


def _at_path(claims: Mapping[str, Any], path: str) -> Any:
    if path in claims:  # some providers name their claims by URLs, which have dots
        return claims[path]
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


class Callers(HTTPBearer):
    """A dependency that lets in only callers of some roles, by the token in the header, else by the session's cookie.

    It is one, and not one upon another, because FastAPI's way from each to the next costs as much as all that it does.
    """

    def __init__(self, *roles: Role) -> None:
        super().__init__(auto_error=False, scheme_name="HTTPBearer", description="A JWT signed by the store.")
        self._roles = roles

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override] # who calls, not what they show
        """Return who calls, or raise `Unauthenticated`, `Unavailable`, `CsrfFailed` or `Forbidden`."""
        credentials = await super().__call__(request)
        principal = await identify(request, credentials.credentials) if credentials else _by_cookie(request)
        if principal.role not in self._roles:
            allowed = " or ".join(self._roles)
            raise Forbidden(f"This is for the role {allowed}, the token says {principal.role}.")
        return principal


require = cache(Callers)
"""The dependency for some roles, the same one wherever they are the same: FastAPI then asks it once a request."""


def _by_cookie(request: Request) -> Principal:
    """Return who calls by the session's cookie, which alone changes nothing."""
    settings: TokenSettings = request.app.state.settings
    cookie = read_cookie(request, settings)
    if cookie is None or "Authorization" in request.headers:
        raise Unauthenticated("A bearer token is needed.")
    found = verify_session_token(cookie, settings)
    if request.method not in SAFE_METHODS:
        check_csrf(request, request.headers.get(CSRF_HEADER), found.csrf)
    return found.principal
