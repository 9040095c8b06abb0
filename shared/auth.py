"""Bearer tokens of the store: who calls, from which side."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import jwt
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import TypeAdapter, ValidationError

from shared.people import Address, LocaleTag, StoreId, ZoneName
from shared.problems import Forbidden, Unauthenticated
from shared.settings import Role as Role  # noqa: PLC0414 - callers find it beside Principal
from shared.settings import TokenSettings
from shared.text import Name

ALGORITHM = "HS256"
LEEWAY = timedelta(seconds=30)

_SUBJECT: TypeAdapter[str] = TypeAdapter(StoreId)
_CLAIMS: Mapping[str, TypeAdapter[str]] = {
    "email": TypeAdapter(Address),
    "name": TypeAdapter(Name),
    "locale": TypeAdapter(LocaleTag),
    "zoneinfo": TypeAdapter(ZoneName),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: a verified token's content. Claims that are missing or unusable are None."""

    id: str
    role: Role
    email: str | None = None
    name: str | None = None
    locale: str | None = None
    zoneinfo: str | None = None


def verify_token(token: str, settings: TokenSettings) -> Principal:
    """Return who a token speaks for, or raise `Unauthenticated` with the reason."""
    claims = _decode(token, settings)
    try:
        subject = _SUBJECT.validate_python(claims["sub"])
    except ValidationError:
        raise Unauthenticated("The token's sub is not an id of the store.") from None
    return Principal(id=subject, role=_role(claims, settings), **{name: _claim(claims, name) for name in _CLAIMS})


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


def _decode(token: str, settings: TokenSettings) -> dict[str, Any]:
    failure = "The token is not valid."
    for secret in settings.auth_secret:
        try:
            return jwt.decode(
                token,
                secret.get_secret_value(),
                algorithms=[ALGORITHM],
                audience=settings.auth_audience,
                issuer=settings.auth_issuer,
                leeway=LEEWAY,
                options={"require": ["sub", "iat", "exp", "aud"]},
            )
        except jwt.InvalidSignatureError:
            continue  # the other secret, while rotating
        except jwt.ExpiredSignatureError:
            failure = "The token has expired."
            break
        except (jwt.InvalidTokenError, ValueError):
            break
    raise Unauthenticated(failure)


def _role(claims: Mapping[str, Any], settings: TokenSettings) -> Role:
    found: Any = claims
    for part in settings.auth_role_claim.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    values = found if isinstance(found, list) else [found]
    for value in values:
        if isinstance(value, str) and (name := settings.auth_role_map.get(value, value)) in set(Role):
            return Role(name)
    if settings.auth_default_role is not None:
        return settings.auth_default_role
    raise Unauthenticated("The token names no role.")


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
    """Return who calls. The application keeps its settings in `app.state.settings`."""
    if credentials is None:
        raise Unauthenticated("A bearer token is needed.")
    return verify_token(credentials.credentials, request.app.state.settings)


def require(*roles: Role) -> Callable[[Principal], Coroutine[Any, Any, Principal]]:
    """Make a dependency that lets in only callers of these roles."""

    async def check(principal: Annotated[Principal, Depends(authenticate)]) -> Principal:
        if principal.role not in roles:
            raise Forbidden(f"This is for the role {' or '.join(roles)}, the token says {principal.role}.")
        return principal

    return check
