"""Read the claims of verified tokens, in the formats of common identity providers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from shared.auth.principal import UNNAMED_PERMISSIONS, Permission
from shared.people import Address, LocaleTag, ZoneName
from shared.problems import TokenRefused
from shared.settings import Role, SettingsError, TokenSettings
from shared.text import MAX_NAME, Name, cut

# Of several roles the first one in this order wins.
_PRECEDENCE: Final = (Role.ADMIN, Role.STORE, Role.CUSTOMER)
_NO = {"", "0", "false", "no"}
_EMAIL = re.compile(r"\S@\S")
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_CLAIMS: Mapping[str, TypeAdapter[str]] = {
    "email": TypeAdapter(Address),
    "locale": TypeAdapter(LocaleTag),
    "zoneinfo": TypeAdapter(ZoneName),
}


def find_claim(claims: Any, path: str) -> Any:
    """Return the value at a path, or None.

    A path that starts with a slash is a JSON Pointer (RFC 6901). Others are dotted. A claim's name may contain dots at
    any level, because providers use URLs as names of claims and clients.
    """
    if path.startswith("/"):
        return _at_pointer(claims, _pointer_parts(path))
    return _at_dots(claims, path.split("."))


def put_claim(claims: dict[str, Any], path: str, value: Any) -> None:
    """Put a value where `find_claim` finds it."""
    *parents, name = _pointer_parts(path) if path.startswith("/") else path.split(".")
    for parent in parents:
        claims = claims.setdefault(parent, {})
        if not isinstance(claims, dict):
            raise SettingsError(f"the claim {path} cannot be set, because {parent} is another claim")
    claims[name] = value


def check_audience(claims: Mapping[str, Any], settings: TokenSettings) -> None:
    """Raise `TokenRefused` if the token's audience is not ours."""
    name, accepted = settings.auth_audience_claim, settings.auth_audience
    audience = find_claim(claims, name)
    if audience is None:
        raise TokenRefused(f"The token has no {name} (CHATS_AUTH_AUDIENCE_CLAIM).", "missing_claim", name)
    values = audience if isinstance(audience, list) else [audience]
    if not any(value in accepted for value in values if isinstance(value, str)):
        raise TokenRefused(
            f"The token's {name} must be one of CHATS_AUTH_AUDIENCE: {', '.join(accepted)}.", "wrong_audience"
        )


def find_role(claims: Mapping[str, Any], settings: TokenSettings) -> Role:
    """Return the role in a token, or raise `TokenRefused`."""
    claim = find_claim(claims, settings.auth_role_claim)
    values = claim if isinstance(claim, list) else [claim]
    roles = {settings.auth_role_map.get(value, value) for value in values if isinstance(value, str)}
    for role in _PRECEDENCE:
        if role in roles:
            return role
    if settings.auth_default_role is not None:
        return settings.auth_default_role
    if claim is None:
        raise TokenRefused(
            f"The token has no role in the claim {settings.auth_role_claim} (CHATS_AUTH_ROLE_CLAIM).",
            "missing_claim",
            settings.auth_role_claim,
        )
    raise TokenRefused(
        f"The token's {settings.auth_role_claim} contains no known role (CHATS_AUTH_ROLE_MAP).",
        "unknown_role",
    )


def find_permissions(claims: Mapping[str, Any], role: Role, settings: TokenSettings) -> frozenset[Permission]:
    """Return an admin's permissions: those in the configured claim, a list or a text with spaces. Ignores others."""
    if role is not Role.ADMIN:
        return frozenset()
    if settings.auth_permissions_claim is None:
        return UNNAMED_PERMISSIONS
    claim = find_claim(claims, settings.auth_permissions_claim)
    return read_permissions(claim.split() if isinstance(claim, str) else claim)


def read_permissions(names: Any) -> frozenset[Permission]:
    """Return the permissions in a list of any values."""
    return frozenset(permission for permission in Permission if isinstance(names, list) and permission in names)


def read_profile(claims: Mapping[str, Any], role: Role) -> dict[str, str | None]:
    """Return the user's profile in a token. Missing or unusable claims are None."""
    profile = {name: _usable(kind, claims.get(name)) for name, kind in _CLAIMS.items()}
    if _is_false(claims.get("email_verified")):
        profile["email"] = None
    return {**profile, "name": _find_name(claims, role)}


def _find_name(claims: Mapping[str, Any], role: Role) -> str | None:
    """Return the best name in a token.

    Customers see an admin's name, so one with an email address, as some providers make it, is not used.
    """
    parts = [part for name in ("given_name", "family_name") if isinstance(part := claims.get(name), str)]
    for candidate in (claims.get("name"), " ".join(parts), claims.get("preferred_username")):
        if not isinstance(candidate, str) or (role is Role.ADMIN and _EMAIL.search(candidate)):
            continue
        if usable := _usable(_NAME, cut(" ".join(candidate.split()), MAX_NAME)):
            return usable
    return None


def _usable(kind: TypeAdapter[str], value: Any) -> str | None:
    if value is None:
        return None
    try:
        return kind.validate_python(value, strict=True) or None
    except ValidationError:
        return None


def _is_false(value: Any) -> bool:
    """Return whether a claim is false. Some providers write booleans as strings."""
    return value.strip().lower() in _NO if isinstance(value, str) else value is not None and not value


def _at_dots(node: Any, parts: Sequence[str]) -> Any:
    if not parts:
        return node
    if isinstance(node, Mapping):
        for end in range(len(parts), 0, -1):
            name = ".".join(parts[:end])
            if name in node and (value := _at_dots(node[name], parts[end:])) is not None:
                return value
    return None


def _at_pointer(node: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list) and part.isdecimal() and part.isascii():
            node = node[int(part)] if len(part) <= len(str(len(node))) and int(part) < len(node) else None
        else:
            return None
    return node


def _pointer_parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
