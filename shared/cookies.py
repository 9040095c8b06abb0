"""The cookie of a browser's session, and what shows that a page of ours made the browser send it."""

import hmac
from datetime import timedelta
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from shared.problems import CsrfFailed
from shared.settings import TokenSettings

CSRF_HEADER = "X-CSRF-Token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def cookie_name(settings: TokenSettings) -> str:
    """Return the cookie's name; under https one that no subdomain and no plain connection can set."""
    return "__Host-chats" if _is_secure(settings) else "chats"


def cookie_header(settings: TokenSettings, value: str, keep: timedelta) -> str:
    """Make the `Set-Cookie` header that lets the browser keep a value for some time; no time takes it away."""
    secure = "; Secure" if _is_secure(settings) else ""
    attributes = f"Path=/; Max-Age={int(keep.total_seconds())}; HttpOnly; SameSite=Lax{secure}"
    return f"{cookie_name(settings)}={value}; {attributes}"


def read_cookie(request: HTTPConnection, settings: TokenSettings) -> str | None:
    """Return the cookie's value, if the browser sent one."""
    return request.cookies.get(cookie_name(settings)) or None


def check_csrf(request: HTTPConnection, given: object, expected: str) -> None:
    """Make sure that a request with the cookie comes from a page of this origin, or raise `CsrfFailed`.

    `given` is what came in the header or the form field, `expected` what the session has.
    """
    if not is_own_origin(request):
        raise CsrfFailed("This came from a page of another origin.")
    # A form in UTF-7 may hold half of a character, which plain UTF-8 cannot carry.
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(errors="replace"), expected.encode()):
        raise CsrfFailed(f"With the session's cookie, {CSRF_HEADER} (in forms csrf_token) has to be the session's own.")


def is_own_origin(request: HTTPConnection) -> bool:
    """Tell whether a request says nothing that speaks against a page of its own origin."""
    origin = request.headers.get("Origin")
    if origin is not None and _host(origin) != request.headers.get("Host", "").lower():
        return False
    return request.headers.get("Sec-Fetch-Site", "none") in {"same-origin", "none"}


def _host(origin: str) -> str | None:
    # `null`, and what is no origin at all, has none.
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _is_secure(settings: TokenSettings) -> bool:
    return urlsplit(settings.public_url).scheme == "https"
