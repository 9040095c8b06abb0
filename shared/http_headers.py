"""Default security headers of every response, and the comparison of entity tags."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Strict defaults for data: no scripts, frames, type sniffing or caching. Pages and scripts set their own headers.
DEFAULTS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Without includeSubDomains, because the store decides about its other hosts.
HSTS = {"Strict-Transport-Security": "max-age=31536000"}


def matches_etag(if_none_match: str | None, etag: str) -> bool:
    """Return whether a client that sent this `If-None-Match` has the content with this entity tag.

    It may name several, separated by commas, and proxies that compress mark them as weak.
    """
    held = [tag.strip() for tag in (if_none_match or "").split(",")]
    return "*" in held or etag in [tag.removeprefix("W/") for tag in held]


class SecureHeaders:
    """ASGI middleware: adds the headers that a response does not set itself."""

    def __init__(self, app: ASGIApp, public_url: str = "") -> None:
        self.app = app
        headers = DEFAULTS | (HSTS if public_url.startswith("https:") else {})
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = dict(message["headers"])
                if present.get(b"content-type", b"").startswith(b"text/javascript"):
                    # Only documents obey it, and for a page's some thirty scripts it was 4 % of a first visit.
                    present[b"permissions-policy"] = b""
                missing = [header for header in self._headers if header[0] not in present]
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        await self.app(scope, receive, send_with_headers)
