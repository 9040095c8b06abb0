"""Requests sent to an application exactly as written: no client normalizes their paths."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlencode

from starlette.types import ASGIApp, Message

HOST = "chats.test"


@dataclass(frozen=True)
class Answer:
    """A response; of one that never ends, the beginning."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str

    @property
    def text(self) -> str:
        """Return everything that could reveal data: headers and body."""
        return "\n".join([*(f"{name}: {value}" for name, value in self.headers), "", self.body])

    def header(self, wanted: str) -> str | None:
        return next((value for name, value in self.headers if name == wanted), None)

    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: ASGIApp, method: str, target: str, headers: Mapping[str, str], *, json_body: Any = None, form: Any = None
) -> Answer:
    """Send a request; hang up after the first bytes of a stream."""
    path, _, query = target.partition("?")
    content, kind = b"", ""
    if json_body is not None:
        content, kind = json.dumps(json_body).encode(), "application/json"
    elif form is not None:
        content, kind = urlencode(form, doseq=True).encode(), "application/x-www-form-urlencoded"
    sent = {"host": HOST, **({"content-type": kind} if kind else {}), **headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.items()],
        "server": (HOST, 80),
        "client": ("192.0.2.1", 123),
        "root_path": "",
        "state": {},
    }
    requests: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]
    messages: list[Message] = []
    enough = asyncio.Event()

    async def receive() -> Message:
        if requests:
            return requests.pop()
        await enough.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.append(message)
        if message.get("body"):
            enough.set()

    await app(scope, receive, send)
    start = next(message for message in messages if message["type"] == "http.response.start")
    return Answer(
        start["status"],
        tuple(sorted((name.decode(), value.decode("latin-1")) for name, value in start["headers"])),
        b"".join(message.get("body", b"") for message in messages).decode(),
    )
