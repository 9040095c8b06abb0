"""What browsers are told about every answer, unless the answer itself says otherwise."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# For data: nothing in it is ever to run, to be framed, to be guessed at, or to be kept. Pages, scripts and whoever
# else needs more says so with the answer.
DEFAULTS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Without includeSubDomains: the store's other hosts are the store's to decide about.
ONLY_HTTPS = {"Strict-Transport-Security": "max-age=31536000"}


class SecureHeaders:
    """ASGI middleware: adds these headers to every answer that does not have them."""

    def __init__(self, app: ASGIApp, public_url: str = "") -> None:
        self.app = app
        headers = DEFAULTS | (ONLY_HTTPS if public_url.startswith("https:") else {})
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(each for each in self._headers if each[0] not in given)]
            await send(message)

        await self.app(scope, receive, send_with_headers)
