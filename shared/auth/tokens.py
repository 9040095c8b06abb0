"""Tokens: the store's bearer tokens, and the session tokens in browsers' cookies.

A session token has the session's id in `sid` and its CSRF token in `csrf`. It is accepted only in the cookie, and a
bearer token is not. The claim `csrf` tells them apart: identity providers use `sid`, too.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import jwt
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError

from shared.auth.claims import (
    check_audience,
    find_claim,
    find_permissions,
    find_role,
    put_claim,
    read_permissions,
    read_profile,
)
from shared.auth.jwks import MAX_TOKEN
from shared.auth.principal import Permission, Principal
from shared.auth.token_errors import SECRETS_ALGORITHM, token_error
from shared.people import MAX_ID, StoreId
from shared.problems import MissingPermission, RoleWithdrawn, TokenRefused
from shared.settings import Role, TokenSettings

LEEWAY = timedelta(seconds=30)
CACHE_SECONDS = 60  # that a verified token need not be verified again
SESSION_TOKEN_LIFETIME = timedelta(minutes=10)


class _SessionClaims(BaseModel):
    sid: UUID
    csrf: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]
    role: Literal["customer", "admin"]
    chats_permissions: list[str] = []


_SUBJECT: TypeAdapter[str] = TypeAdapter(StoreId)


@dataclass(frozen=True, slots=True)
class SessionToken:
    """The content of a session cookie. `csrf` is the CSRF token that its pages must send."""

    principal: Principal
    session_id: UUID
    csrf: str
    issued_at: datetime
    expires_at: datetime


T = TypeVar("T")


class VerifiedTokens(Generic[T]):
    """Short-lived cache of verified tokens, so repeated calls skip signature verification.

    Keys are hashes of tokens. Entries last until the token expires, and for at most a minute: for that long a key that
    the provider has withdrawn may still be accepted.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._entries: OrderedDict[bytes, tuple[float, T | None]] = OrderedDict()
        self._size = size

    def find(self, token: str) -> T | None:
        """Return the content of a token in the cache."""
        until, content = self._entries.get(_digest(token), (0.0, None))
        return content if time.time() < until else None

    def add(self, token: str, content: T, expires_at: datetime | None) -> None:
        """Add a token that was just verified."""
        digest, expires_at = _digest(token), expires_at or datetime.max.replace(tzinfo=UTC)
        self._entries.pop(digest, None)  # the newest are last
        self._entries[digest] = (min(time.time() + CACHE_SECONDS, expires_at.timestamp()), content)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def verify_token(
    token: str, settings: TokenSettings, key: jwt.PyJWK | None = None, *, max_age: timedelta | None = None
) -> Principal:
    """Return the caller of a bearer token, or raise `TokenRefused` with the reason.

    Verifies with `key` and its own algorithm; without a key, with a secret and HS256. With `max_age`, rejects tokens
    that were issued longer ago.
    """
    claims = _decode(token, settings, key)
    if "csrf" in claims:
        raise TokenRefused("This is a session token, which is only accepted in the session cookie.", "malformed")
    if max_age is not None and _issued_at(claims) < datetime.now(UTC) - max_age - LEEWAY:
        raise TokenRefused(
            f"The token is too old: it was issued more than {max_age.total_seconds():g} seconds ago.", "expired"
        )
    role = find_role(claims, settings)
    profile: dict[str, Any] = read_profile(claims, role)
    return Principal(
        id=_subject(claims),
        role=role,
        **profile,
        expires_at=_expires_at(claims),
        issued_at=int(_issued_at(claims).timestamp()),
        permissions=find_permissions(claims, role, settings),
    )


def verify_session_token(token: str, settings: TokenSettings, *, may_be_expired: bool = False) -> SessionToken:
    """Return the content of a session cookie, or raise `TokenRefused` with the reason.

    With `may_be_expired`, accepts an expired token, to look up its session's row.
    """
    claims = _decode(token, settings, verify_exp=not may_be_expired)
    role = find_claim(claims, settings.auth_role_claim)  # our own role names, not the store's
    try:
        session = _SessionClaims.model_validate({**claims, "role": role})
    except ValidationError:
        raise TokenRefused("This is not a session token.", "malformed") from None
    permissions = (
        find_permissions(claims, Role(session.role), settings)
        if settings.auth_permissions_claim is None
        else read_permissions(session.chats_permissions)
    )
    principal = Principal(_subject(claims), Role(session.role), session_id=session.sid, permissions=permissions)
    return SessionToken(principal, session.sid, session.csrf, _issued_at(claims), _expires_at(claims))


def issue_session_token(
    settings: TokenSettings,
    user_id: str,
    role: Role,
    session_id: UUID,
    csrf: str,
    permissions: Collection[Permission] = (),
) -> str:
    """Sign a session token, valid for ten minutes."""
    claims = store_claims(settings, user_id, role) | {"sid": str(session_id), "csrf": csrf}
    if settings.auth_permissions_claim is not None and permissions:
        claims["chats_permissions"] = sorted(permissions)
    return issue_token(settings, claims, SESSION_TOKEN_LIFETIME)


def issue_token(settings: TokenSettings, claims: Mapping[str, Any], lifetime: timedelta) -> str:
    """Sign claims with the first secret, as the store would."""
    now = datetime.now(UTC)
    complete = {**claims, "iat": now, "exp": now + lifetime}
    put_claim(complete, settings.auth_audience_claim, settings.auth_audience[0])
    if settings.auth_issuer:
        complete["iss"] = settings.auth_issuer
    return jwt.encode(complete, settings.auth_secret[0].get_secret_value(), algorithm=SECRETS_ALGORITHM)


def store_claims(settings: TokenSettings, sub: str, role: str, **profile: str | None) -> dict[str, Any]:
    """Return the claims of a token of the store, with the role in the configured claim."""
    claims: dict[str, Any] = {}
    put_claim(claims, settings.auth_role_claim, role)
    return {**claims, "sub": sub, **{claim: value for claim, value in profile.items() if value is not None}}


def _decode(
    token: str, settings: TokenSettings, key: jwt.PyJWK | None = None, *, verify_exp: bool = True
) -> dict[str, Any]:
    if len(token) > MAX_TOKEN:
        raise TokenRefused(f"The token is longer than {MAX_TOKEN} characters.", "malformed")
    # The key decides about the algorithm. The token's `alg` must be the same, and never decides.
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
                options={
                    "require": ["sub", "iat", "exp"],
                    "verify_exp": verify_exp,
                    "verify_aud": False,
                    "verify_jti": False,
                },
            )
        except jwt.InvalidSignatureError as refused:
            error = refused  # during a rotation, the other secret may match
        except (jwt.PyJWTError, ValueError) as refused:
            error = refused
            break
        else:
            check_audience(claims, settings)
            return claims
    raise token_error(error, token, settings)


def _subject(claims: Mapping[str, Any]) -> str:
    try:
        return _SUBJECT.validate_python(claims["sub"])
    except ValidationError:
        raise TokenRefused(
            f"The token's sub must have 1 to {MAX_ID} visible ASCII characters.", "malformed", "sub"
        ) from None


def _issued_at(claims: Mapping[str, Any]) -> datetime:
    try:
        return datetime.fromtimestamp(int(claims["iat"]), UTC)
    except (ValueError, OverflowError, OSError):
        raise TokenRefused("The token's iat is not a valid time.", "malformed", "iat") from None


def _expires_at(claims: Mapping[str, Any]) -> datetime:
    try:
        return datetime.fromtimestamp(int(claims["exp"]), UTC) + LEEWAY
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return datetime.max.replace(tzinfo=UTC)


def check_permission(principal: Principal, permission: Permission) -> None:
    """Raise `MissingPermission` if an admin lacks a permission."""
    if permission not in principal.permissions:
        raise MissingPermission(permission)


def check_synced_role(principal: Principal, synced_role: str | None) -> None:
    """Raise `RoleWithdrawn` for an admin's token if the store has synced another role. None: no role was synced.

    Tokens and cookies outlive a change of roles.
    """
    if principal.role is Role.ADMIN and synced_role not in {None, Role.ADMIN}:
        raise RoleWithdrawn(principal.role, str(synced_role))
