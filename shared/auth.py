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
import structlog
from fastapi import Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError

from shared.claims import check_audience, find_claim, find_role, put_claim, read_profile
from shared.cookies import CSRF_HEADER, SAFE_METHODS, check_csrf, read_cookie
from shared.keys import MAX_TOKEN, ProviderKeys
from shared.people import MAX_ID, StoreId
from shared.problems import Forbidden, TokenRefused, Unauthenticated
from shared.refusals import SECRETS_ALGORITHM, refusal
from shared.settings import Role as Role  # noqa: PLC0414 - callers find it beside Principal
from shared.settings import TokenSettings

LEEWAY = timedelta(seconds=30)
REMEMBERED = 60  # seconds that a verified token need not be verified again
SESSION_TOKEN_LIFETIME = timedelta(minutes=10)


class _SessionClaims(BaseModel):
    sid: UUID
    csrf: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]
    role: Literal["customer", "admin"]


_SUBJECT: TypeAdapter[str] = TypeAdapter(StoreId)

log = structlog.get_logger()


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
    """Return who a token of the store speaks for, or raise `TokenRefused` with the reason.

    It is signed with this key, by the key's own algorithm; without one, with a secret, by HS256. With `max_age`, one
    that was issued longer ago is refused as well.
    """
    claims = _decode(token, settings, key)
    if "csrf" in claims:
        raise TokenRefused("The token is a browser session's, which counts in its cookie only.", "malformed")
    if max_age is not None and _issued_at(claims) < datetime.now(UTC) - max_age - LEEWAY:
        raise TokenRefused(
            f"The token is too old for this: it was issued more than {max_age.total_seconds():g} s ago.", "expired"
        )
    role = find_role(claims, settings)
    profile: dict[str, Any] = read_profile(claims, role)
    return Principal(
        id=_subject(claims),
        role=role,
        **profile,
        expires_at=_expires_at(claims),
        issued_at=int(_issued_at(claims).timestamp()),
    )


def verify_session_token(token: str, settings: TokenSettings, *, may_be_expired: bool = False) -> SessionToken:
    """Return what a session's cookie says, or raise `TokenRefused` with the reason.

    One that has expired still tells which session it was of, for whoever then asks the session's row.
    """
    claims = _decode(token, settings, verify_exp=not may_be_expired)
    role = find_claim(claims, settings.auth_role_claim)  # as it was issued here: not what the store calls its roles
    try:
        said = _SessionClaims.model_validate({**claims, "role": role})
    except ValidationError:
        raise TokenRefused("The cookie is not a session's.", "malformed") from None
    principal = Principal(id=_subject(claims), role=Role(said.role), session_id=said.sid)
    return SessionToken(principal, said.sid, said.csrf, _issued_at(claims))


def issue_session_token(settings: TokenSettings, user_id: str, role: Role, session_id: UUID, csrf: str) -> str:
    """Sign what a session's cookie holds, for ten minutes."""
    claims = store_claims(settings, user_id, role) | {"sid": str(session_id), "csrf": csrf}
    return issue_token(settings, claims, SESSION_TOKEN_LIFETIME)


def issue_token(settings: TokenSettings, claims: Mapping[str, Any], lifetime: timedelta) -> str:
    """Sign claims with the newest secret, as the store would."""
    now = datetime.now(UTC)
    said = {**claims, "iat": now, "exp": now + lifetime}
    put_claim(said, settings.auth_audience_claim, settings.auth_audience[0])
    if settings.auth_issuer:
        said["iss"] = settings.auth_issuer
    return jwt.encode(said, settings.auth_secret[0].get_secret_value(), algorithm=SECRETS_ALGORITHM)


def store_claims(settings: TokenSettings, sub: str, role: str, **profile: str | None) -> dict[str, Any]:
    """Make the claims that the store's identity provider would, with the role where it is looked for."""
    claims: dict[str, Any] = {}
    put_claim(claims, settings.auth_role_claim, role)
    return {**claims, "sub": sub, **{claim: value for claim, value in profile.items() if value is not None}}


def _decode(
    token: str, settings: TokenSettings, key: jwt.PyJWK | None = None, *, verify_exp: bool = True
) -> dict[str, Any]:
    if len(token) > MAX_TOKEN:
        raise TokenRefused(f"The token is longer than {MAX_TOKEN} characters.", "malformed")
    # What the key is says by which algorithm it is used. The token's word for it has to be the same, and never decides.
    secrets = [secret.get_secret_value() for secret in settings.auth_secret]
    error: Exception = jwt.InvalidAlgorithmError()
    for trusted, algorithm in (
        [(key, key.algorithm_name)] if key else [(secret, SECRETS_ALGORITHM) for secret in secrets]
    ):
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                trusted,
                algorithms=[algorithm],
                issuer=settings.auth_issuer,
                leeway=LEEWAY,
                options={"require": ["sub", "iat", "exp"], "verify_exp": verify_exp, "verify_aud": False},
            )
        except jwt.InvalidSignatureError as refused:
            error = refused  # perhaps it is the other secret, while rotating
        except (jwt.PyJWTError, ValueError) as refused:
            error = refused
            break
        else:
            check_audience(claims, settings)
            return claims
    raise refusal(error, token, settings)


def _subject(claims: Mapping[str, Any]) -> str:
    try:
        return _SUBJECT.validate_python(claims["sub"])
    except ValidationError:
        raise TokenRefused(
            f"The token's sub is no id of the store: 1 to {MAX_ID} visible ASCII characters.", "malformed", "sub"
        ) from None


def _issued_at(claims: Mapping[str, Any]) -> datetime:
    try:
        return datetime.fromtimestamp(int(claims["iat"]), UTC)
    except (ValueError, OverflowError, OSError):
        raise TokenRefused("The token's iat is no time.", "malformed", "iat") from None


def _expires_at(claims: Mapping[str, Any]) -> datetime:
    try:
        return datetime.fromtimestamp(int(claims["exp"]), UTC) + LEEWAY
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return datetime.max.replace(tzinfo=UTC)


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
        try:
            principal = await identify(request, credentials.credentials) if credentials else _by_cookie(request)
        except TokenRefused as refused:
            log.info("token refused", reason=refused.reason, detail=refused.detail)
            raise
        if principal.role not in self._roles:
            allowed = " or ".join(self._roles)
            raise Forbidden(f"This is for the role {allowed}, the token says {principal.role}.")
        return principal


def check_synced_role(principal: Principal, synced_role: str | None) -> None:
    """Raise `Forbidden` if a token says more than the role that the store has sent of its user, None for none.

    Tokens and cookies outlive a change of roles; who was an admin may have one for as long as it counts.
    """
    if principal.role is Role.ADMIN and synced_role not in {None, Role.ADMIN}:
        raise Forbidden(f"The token says {principal.role}; the store has sent the role {synced_role} since.")


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
