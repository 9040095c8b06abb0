"""Check a token for the messenger: whether it is accepted, for whom, and which of its claims are used."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from time import time
from types import MappingProxyType
from typing import Any, Final

import jwt

from deploy.doctor.findings import Finding, fault, note, ok, warning
from shared.auth.claims import check_audience, find_role, read_profile
from shared.auth.tokens import LEEWAY, verify_token
from shared.problems import TokenRefused
from shared.settings import Role, TokenSettings

MILLISECONDS: Final = 10**11  # a time that is larger is not in seconds
LONG: Final = timedelta(days=1)
REQUIRED: Final = ("sub", "iat", "exp")
ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "expired": "Sign a new token whenever the messenger asks for one, valid for five minutes.",
        "not_yet_valid": "Synchronize the clocks of both machines by NTP.",
        "bad_signature": "Sign with the text of CHATS_AUTH_SECRET, not decoded. Of two secrets, use the first.",
        "wrong_audience": "Set the token's audience to one of them.",
        "wrong_issuer": "Set the token's iss to it, or correct CHATS_AUTH_ISSUER.",
        "missing_claim": "Add it to the claims that you sign.",
        "unknown_key": "Sign with HS256 and CHATS_AUTH_SECRET, or check CHATS_AUTH_JWKS_URL.",
        "unknown_role": "Sign it with customer, or name your own roles in CHATS_AUTH_ROLE_MAP.",
        "malformed": "Make tokens with a JWT library.",
    }
)
KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "name": "a name, or it is an admin's and contains an email address, which customers would see",
        "email": "an email address",
        "locale": "a language such as de-AT",
        "zoneinfo": "a time zone such as Europe/Vienna",
    }
)
ROLES: Final[Mapping[Role, str]] = MappingProxyType(
    {
        Role.ADMIN: "Give it tokens of customers only. Admins use the sign-in form (docs/embedding.md#sign-in).",
        Role.STORE: "Keep tokens of the store in your backend: they can read and change everything.",
    }
)


def find_token(given: str) -> str:
    """Return the token in what was given: by itself, as a header has it, or in the JSON of `token-url`."""
    given = given.strip()
    try:
        content = json.loads(given)
    except ValueError:
        return given.removeprefix("Bearer ").strip()
    token = content.get("token") if isinstance(content, dict) else None
    return token if isinstance(token, str) else given


def read_claims(token: str) -> dict[str, Any] | None:
    """Return the claims of a token that is not verified; None if it is not a JWT."""
    try:
        return jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError):
        return None


def check_token(
    token: str, claims: Mapping[str, Any], settings: TokenSettings, key: jwt.PyJWK | None, max_age: timedelta
) -> Iterator[Finding]:
    """Yield everything that is wrong with a token, or who it speaks for. No part of its signature is shown."""
    refusals = _refusals(token, claims, settings, key)
    for refused in refusals:
        yield fault(refused.detail, ADVICE[refused.reason])
    yield from _of_times(claims, max_age, is_expired=any(refused.reason == "expired" for refused in refusals))
    try:
        role = find_role(claims, settings)
    except TokenRefused:
        return
    if role in ROLES:
        yield fault(f"The messenger refuses the role {role}.", ROLES[role])
    if not refusals:
        yield ok(f"The token speaks for {claims['sub']}, role {role}.")
        yield from _of_profile(claims, role)


def _refusals(
    token: str, claims: Mapping[str, Any], settings: TokenSettings, key: jwt.PyJWK | None
) -> Sequence[TokenRefused]:
    """Return every reason for which a token is refused. The API names the first one only."""
    checks: list[Callable[[], object]] = [
        lambda: verify_token(token, settings, key),
        *(lambda name=name: _require(claims, name) for name in REQUIRED),
        lambda: _check_times(claims),
        lambda: check_audience(claims, settings),
        lambda: find_role(claims, settings),
    ]
    found: dict[str, TokenRefused] = {}
    for check in checks:
        try:
            check()
        except TokenRefused as refused:
            found.setdefault(refused.detail, refused)
    return list(found.values())


def _require(claims: Mapping[str, Any], name: str) -> None:
    if claims.get(name) is None:
        raise TokenRefused(f"The token has no {name}.", "missing_claim", name)


def _check_times(claims: Mapping[str, Any]) -> None:
    now, leeway = time(), LEEWAY.total_seconds()
    if (_seconds(claims, "exp") or now) < now - leeway:
        raise TokenRefused("The token has expired (exp).", "expired")
    if (_seconds(claims, "iat") or now) > now + leeway:
        raise TokenRefused("The token is not valid yet (iat, nbf). Check that the clocks agree.", "not_yet_valid")


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _of_times(claims: Mapping[str, Any], max_age: timedelta, *, is_expired: bool) -> Iterator[Finding]:
    issued, expires = _seconds(claims, "iat"), _seconds(claims, "exp")
    if issued is None or expires is None:
        return
    if max(issued, expires) > MILLISECONDS:
        yield fault("The token's iat or exp is in milliseconds.", "Write times in seconds since 1970.")
        return
    age = time() - issued
    if not is_expired and age > (max_age + LEEWAY).total_seconds():
        text = f"The token is {age:,.0f} s old: the messenger and the sign-in form accept it for {max_age.seconds} s."
        yield warning(text, "Sign a new one whenever the messenger asks for it, and when you render the sign-in form.")
    if expires - issued > LONG.total_seconds():
        text = f"The token is valid for {(expires - issued) / LONG.total_seconds():,.0f} days."
        yield warning(text, "Sign it for five minutes: anyone who finds it can use it until it expires.")


def _of_profile(claims: Mapping[str, Any], role: Role) -> Iterator[Finding]:
    used = read_profile(claims, role)
    for name, kind in KINDS.items():
        if used[name]:
            yield ok(f"{name} is used: {used[name]}")
        elif name in claims:
            is_verified = not read_profile({**claims, "email_verified": None}, role)[name]
            reason = f"it is not {kind}" if is_verified else "email_verified is false"
            yield warning(f"{name} is not used: {reason}.", "Correct it, or leave it out.")
    if not used["name"]:
        yield note("There is no name in the token: unless your store syncs one, the id is shown.")
    if not used["email"]:
        yield note("There is no address in the token: unless your store syncs one, no email is sent.")
