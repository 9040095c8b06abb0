"""Session cookies, and protection against cross-site request forgery (CSRF)."""

import hmac
from datetime import timedelta
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from shared.problems import CsrfFailed
from shared.settings import TokenSettings

CSRF_HEADER = "X-CSRF-Token"
FRAMED = "customer-chats.framed"  # in the scope of a request from the frame in a store's page
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})  # where browsers accept `Secure` without https


def is_framed(request: HTTPConnection) -> bool:
    """Return whether a request comes from the frame in a store's page, by its path alone."""
    return FRAMED in request.scope


def cookie_name(settings: TokenSettings, *, framed: bool = False) -> str:
    """Return the cookie's name. With https, subdomains and plain connections cannot set it (`__Host-`).

    A frame has a cookie of its own, which no other request reads, and reads no other.
    """
    name = "chats-messenger" if framed else "chats"
    return f"__Host-{name}" if _is_secure(settings) else name


def cookie_header(request: HTTPConnection, settings: TokenSettings, value: str, keep: timedelta) -> str:
    """Return a `Set-Cookie` header that stores a value for the time `keep`. Zero deletes the cookie."""
    framed = is_framed(request)
    if framed and (_is_secure(settings) or urlsplit(settings.public_url).hostname in _LOOPBACK):
        # For a frame in a page of another site, and in pages of that site only.
        attributes = "SameSite=None; Secure; Partitioned"
    else:
        attributes = "SameSite=Lax; Secure" if _is_secure(settings) else "SameSite=Lax"
    name = cookie_name(settings, framed=framed)
    return f"{name}={value}; Path=/; Max-Age={int(keep.total_seconds())}; HttpOnly; {attributes}"


def read_cookie(request: HTTPConnection, settings: TokenSettings) -> str | None:
    """Return the cookie's value, or None."""
    return request.cookies.get(cookie_name(settings, framed=is_framed(request))) or None


def check_csrf(request: HTTPConnection, given: object, expected: str) -> None:
    """Raise `CsrfFailed` unless a request with the cookie comes from a page of this origin.

    `given` is the token in the header or the form field, `expected` that of the session.
    """
    if not is_own_origin(request):
        raise CsrfFailed("The request came from a page of another origin.")
    # A form in UTF-7 may contain a lone surrogate, which UTF-8 cannot encode.
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(errors="replace"), expected.encode()):
        raise CsrfFailed("Missing or invalid CSRF token.")


def is_own_origin(request: HTTPConnection) -> bool:
    """Return whether no header of a request indicates a page of another origin."""
    origin = request.headers.get("Origin")
    if origin is not None and _host(origin) != request.headers.get("Host", "").lower():
        return False
    return request.headers.get("Sec-Fetch-Site", "none") in {"same-origin", "none"}


def _host(origin: str) -> str | None:
    # `null` and invalid origins have no host.
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _is_secure(settings: TokenSettings) -> bool:
    return urlsplit(settings.public_url).scheme == "https"
