"""Limits of requests: the size of URL, headers and body, the time in which a body arrives, headers sent twice."""

import asyncio
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.api.body_size import BodySize
from shared.problems import HeadersTooLarge, Invalid, UrlTooLong

MAX_URL_BYTES = 8 * 1024
MAX_HEADER_BYTES = 32 * 1024
BODY_SECONDS = 20  # for a body to arrive
UPLOAD_SECONDS = 1800.0  # for a body with files
# Headers that are read, with one value. Of two, this code and a proxy might believe different ones.
SINGLE_HEADERS = {
    name.lower().encode(): name
    for name in (
        "Authorization",
        "Content-Disposition",
        "Content-Type",
        "Idempotency-Key",
        "Last-Event-ID",
        "Origin",
        "X-CSRF-Token",
    )
}
# What a compressed body says of itself. Some clients send a character set there, which changes nothing.
COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "br", "zstd"})


class RequestHead:
    """ASGI middleware that limits a request's head: 414 for its URL, 431 for its headers, 422 for one sent twice.

    Nothing decompresses bodies, so one that says that it is compressed is 422: a file would be stored that way.

    Gives routes the undecoded path, so that an id can contain an encoded slash; types decode path parameters. The
    server accepts headers of any size, so the proxy has to limit them as well.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its undecoded path."""
        if scope["type"] == "http":
            path: bytes = scope["raw_path"]
            if len(path) + len(scope["query_string"]) > MAX_URL_BYTES:
                raise UrlTooLong(f"The URL is longer than {MAX_URL_BYTES} bytes.")
            headers: list[tuple[bytes, bytes]] = scope["headers"]
            if sum([len(name) + len(value) for name, value in headers]) > MAX_HEADER_BYTES:
                raise HeadersTooLarge(f"The headers are larger than {MAX_HEADER_BYTES} bytes.")
            names = [name for name, _ in headers]
            if len(set(names)) < len(names):
                _check_single_headers(names)
            if b"content-encoding" in names:
                _check_not_compressed(",".join(Headers(scope=scope).getlist("content-encoding")))
            scope["path"] = path.decode("ascii", "replace")
        await self.app(scope, receive, send)


def _check_single_headers(names: Sequence[bytes]) -> None:
    """Raise `Invalid` if a header that has one value was sent more than once."""
    for name, shown in SINGLE_HEADERS.items():
        if (count := names.count(name)) > 1:
            raise Invalid(f"send this header once, not {count} times", ("header", shown))


def _check_not_compressed(encoding: str) -> None:
    """Raise `Invalid` if a `Content-Encoding` names a compression."""
    if COMPRESSIONS & {part.strip() for part in encoding.lower().split(",")}:
        raise Invalid("send the body uncompressed, without this header", ("header", "Content-Encoding"))


@dataclass(frozen=True, slots=True)
class FileForms:
    """The paths of forms that may contain files, and how large such a form may be."""

    paths: re.Pattern[bytes]
    max_bytes: int

    def has(self, path: bytes, content_type: str) -> bool:
        """Return whether a request may be such a form."""
        return content_type.startswith("multipart/form-data") and self.paths.fullmatch(path) is not None


class RequestSizeMiddleware:
    """ASGI middleware that limits a request's body, with 413.

    A body that has not arrived after `body_seconds` is answered with 408. Otherwise clients that send one byte at a
    time could hold connections before they are authenticated.

    The size of a body is that of its text: an escape of JSON or of a form counts as one byte, so that every valid text
    fits, however it is encoded.

    Forms at the paths of `file_forms` may be larger, because they contain files. Their routes have to authenticate the
    caller before they read, and to limit the text.

    FastAPI's `max_body_size` is not used because it always answers in plain text. The bodies of `streamed` paths have
    no limit: their routes have to authenticate the caller before they read, and to limit what they keep in memory.
    """

    def __init__(
        self,
        app: ASGIApp,
        streamed: Collection[str] = (),
        body_seconds: float = BODY_SECONDS,
        file_forms: "FileForms | None" = None,
    ) -> None:
        self.app = app
        self._file_forms = file_forms
        self._body_seconds = body_seconds
        self._streamed = {path.encode() for path in streamed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting the bytes that are read of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["raw_path"] in self._streamed:  # undecoded, as routes see it
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        content_type, seconds = headers.get("content-type", "").lower(), self._body_seconds
        measure = BodySize(content_type)
        if self._file_forms is not None and self._file_forms.has(scope["raw_path"], content_type):
            measure, seconds = BodySize(content_type, self._file_forms.max_bytes), UPLOAD_SECONDS
        # Python limits the digits that int() accepts.
        measure.check_declared(int(declared[:20]) if declared.isdecimal() else 0)
        complete = False
        deadline: float | None = None  # starts at the first read of the body

        async def receive_limited() -> Message:
            nonlocal complete, deadline
            if deadline is None:
                deadline = asyncio.get_running_loop().time() + seconds
            try:  # no deadline after the body: the next message is the disconnect
                async with asyncio.timeout_at(None if complete else deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"The body did not arrive within {seconds:g} seconds.",
                    {"Connection": "close"},  # the rest of the body is not read
                ) from None
            complete = not message.get("more_body", False)
            if body := message.get("body"):
                measure.add(body)
            return message

        await self.app(scope, receive_limited, send)
