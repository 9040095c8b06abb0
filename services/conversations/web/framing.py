"""The messenger's frame in a store's pages: a customer's pages and what their scripts call, below `/messenger/`.

These are the same routes as elsewhere. The path alone decides that a request has the frame's cookie, and no other
credential (`shared.auth.cookies`), that pages have a compact form, and that the store's pages may frame them.
"""

import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.auth.cookies import FRAMED

ROOT: Final = "/messenger"
_ID = rb"[0-9a-f-]{36}"
_PAGES = re.compile(rb"/messenger(/(?:new/|%b/)?)" % _ID)
_CALLS = re.compile(
    rb"/messenger("
    rb"/api/v1/(?:stream|attachments(?:/%(id)b/thumbnail)?|conversations/%(id)b/(?:messages|read))"
    rb"|/attachments/%(id)b(?:/picture)?"
    rb"|/session/renew"
    rb")" % {b"id": _ID}
)


class FramedRequests:
    """ASGI middleware that marks requests below `/messenger/`, and passes them to the routes of the same purpose."""

    def __init__(self, app: ASGIApp, pages_root: str) -> None:
        self.app = app
        self._pages_root = pages_root.rstrip("/").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["raw_path"].startswith(b"/messenger/"):
            scope = {**scope, FRAMED: True, "raw_path": self._find(scope["raw_path"])}
            scope["path"] = scope["raw_path"].decode("ascii", "replace")
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"authorization"]
        await self.app(scope, receive, send)

    def _find(self, path: bytes) -> bytes:
        """Return the path of the route, or the same path for one of its own."""
        if match := _PAGES.fullmatch(path):
            return self._pages_root + match[1]
        match = _CALLS.fullmatch(path)
        return match[1] if match else path
