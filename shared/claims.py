"""What a verified token's claims say, in the ways in which identity providers write them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from shared.people import Address, LocaleTag, ZoneName
from shared.problems import TokenRefused
from shared.settings import Role, TokenSettings
from shared.text import MAX_NAME, Name, cut

# Of several roles the first of these counts, in whatever order the token lists them.
_PRECEDENCE: Final = (Role.ADMIN, Role.STORE, Role.CUSTOMER)
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_CLAIMS: Mapping[str, TypeAdapter[str]] = {
    "email": TypeAdapter(Address),
    "locale": TypeAdapter(LocaleTag),
    "zoneinfo": TypeAdapter(ZoneName),
}


def find_claim(claims: Any, path: str) -> Any:
    """Return the value at a path, or None.

    A path is a JSON Pointer (RFC 6901) when it begins with a slash. Else its parts are joined by dots, and the name of
    a claim may hold dots itself, at any level: providers name claims and clients by URLs.
    """
    if path.startswith("/"):
        return _at_pointer(claims, _pointer_parts(path))
    return _at_dots(claims, path.split("."))


def put_claim(claims: dict[str, Any], path: str, value: Any) -> None:
    """Put a value where `find_claim` finds it."""
    *parents, name = _pointer_parts(path) if path.startswith("/") else path.split(".")
    for parent in parents:
        claims = claims.setdefault(parent, {})
    claims[name] = value


def check_audience(claims: Mapping[str, Any], settings: TokenSettings) -> None:
    """Make sure that a token is meant for us, or raise `TokenRefused`."""
    name, accepted = settings.auth_audience_claim, settings.auth_audience
    found = find_claim(claims, name)
    if found is None:
        raise TokenRefused(f"The token has no {name} (CHATS_AUTH_AUDIENCE_CLAIM).", "missing_claim", name)
    values = found if isinstance(found, list) else [found]
    if not any(value in accepted for value in values if isinstance(value, str)):
        raise TokenRefused(
            f"The token's {name} is none of those in CHATS_AUTH_AUDIENCE: {', '.join(accepted)}.", "wrong_audience"
        )


def find_role(claims: Mapping[str, Any], settings: TokenSettings) -> Role:
    """Return the role that a token gives, or raise `TokenRefused`."""
    found = find_claim(claims, settings.auth_role_claim)
    values = found if isinstance(found, list) else [found]
    named = {settings.auth_role_map.get(value, value) for value in values if isinstance(value, str)}
    for role in _PRECEDENCE:
        if role in named:
            return role
    if settings.auth_default_role is not None:
        return settings.auth_default_role
    if found is None:
        raise TokenRefused(
            f"The token has no role, which is looked for in {settings.auth_role_claim} (CHATS_AUTH_ROLE_CLAIM).",
            "missing_claim",
            settings.auth_role_claim,
        )
    raise TokenRefused(
        f"The token's {settings.auth_role_claim} names no role that is known here (CHATS_AUTH_ROLE_MAP).",
        "unknown_role",
    )


def read_profile(claims: Mapping[str, Any], role: Role) -> dict[str, str | None]:
    """Return what a token says of its user. A claim that is missing or cannot be used is None."""
    found = {name: _usable(kind, claims.get(name)) for name, kind in _CLAIMS.items()}
    if _is_false(claims.get("email_verified")):
        found["email"] = None
    return {**found, "name": _find_name(claims, role)}


def _find_name(claims: Mapping[str, Any], role: Role) -> str | None:
    """Return the best name that a token has.

    An admin is shown to customers by name, so an address, which some providers have for a user name, is none.
    """
    user_name = claims.get("preferred_username")
    if role is Role.ADMIN and isinstance(user_name, str) and "@" in user_name:
        user_name = None
    parts = [part for name in ("given_name", "family_name") if isinstance(part := claims.get(name), str)]
    for candidate in (claims.get("name"), " ".join(parts), user_name):
        if isinstance(candidate, str) and (usable := _usable(_NAME, cut(" ".join(candidate.split()), MAX_NAME))):
            return usable
    return None


def _usable(kind: TypeAdapter[str], value: Any) -> str | None:
    try:
        return kind.validate_python(value, strict=True) or None
    except ValidationError:
        return None


def _is_false(value: Any) -> bool:
    """Tell whether a claim denies something; some providers write booleans as strings."""
    return value.strip().lower() == "false" if isinstance(value, str) else value is not None and not value


def _at_dots(found: Any, parts: Sequence[str]) -> Any:
    if not parts:
        return found
    if isinstance(found, Mapping):
        for end in range(len(parts), 0, -1):
            name = ".".join(parts[:end])
            if name in found and (value := _at_dots(found[name], parts[end:])) is not None:
                return value
    return None


def _at_pointer(found: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, list) and part.isdecimal() and part.isascii():
            found = found[int(part)] if len(part) <= len(str(len(found))) and int(part) < len(found) else None
        else:
            return None
    return found


def _pointer_parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
