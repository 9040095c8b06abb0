"""Callers of the conversations service for tests: customers, admins and the store."""

from dataclasses import dataclass, field
from typing import Any

import httpx2
from sqlalchemy import select

from services.conversations.models import LoggedEvent
from shared.database.transactions import SessionFactory

ORDER = {
    "user_id": "anna",
    "number": "1007",
    "status": "shipped",
    "total": "59.90",
    "currency": "EUR",
    "placed_at": "2026-01-02T03:04:05Z",
}


UNKNOWN_ID = "01900000-0000-7000-8000-000000000000"
"""An id that belongs to nothing."""


@dataclass(frozen=True)
class Caller:
    """A caller with a token; `prefix` comes before all its paths."""

    api: httpx2.AsyncClient
    prefix: str
    headers: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, path: str, json: Any = None, *, key: str | None = None, **more: Any) -> Any:
        """Send a request; non-JSON bodies go into `content`, further headers into `headers`."""
        headers = self.headers | more.pop("headers", {}) | ({"Idempotency-Key": key} if key else {})
        body = {} if json is None else {"json": json}
        return await self.api.request(method, self.prefix + path, headers=headers, **body, **more)

    async def get(self, path: str, **params: Any) -> Any:
        """Return the JSON at a path; `params` come after a query that the path has."""
        answer = await self.call("GET", path, params=httpx2.URL(path).params.merge(params))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def open(self, *, key: str | None = None, **fields: Any) -> Any:
        """Create a conversation and return it."""
        answer = await self.call("POST", "/conversations", {"subject": "Where is my parcel?", **fields}, key=key)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def post(self, conversation: str, body: str = "Hello?", **fields: Any) -> Any:
        """Post a message and return it."""
        answer = await self.call("POST", f"/conversations/{conversation}/messages", {"body": body, **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def upload(self, content: bytes = b"A file", name: str = "file.txt") -> Any:
        """Upload a file and return it."""
        path = "/api/v1/attachments"
        answer = await self.api.post(path, files={"file": (name, content)}, headers=self.headers)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def peek(self, conversation: str) -> Any:
        """Return a conversation without reading it."""
        return await self.get(f"/conversations/{conversation}", peek="true")

    async def edit(self, conversation: str, **fields: Any) -> Any:
        """Change a conversation and return it."""
        answer = await self.call("PATCH", f"/conversations/{conversation}", fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def pages(self, path: str, **params: Any) -> list[Any]:
        """Return all pages of a list, each as a list of items."""
        pages, cursor = [], None
        while True:
            page = await self.get(path, **params, **({"cursor": cursor} if cursor else {}))
            pages.append(page["items"])
            if (cursor := page["next_cursor"]) is None:
                return pages


def problem(answer: httpx2.Response) -> tuple[int, str]:
    """Check that a response is complete problem+json; return its status and code."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["type"].endswith(body["code"])
    assert body["title"]
    assert body["detail"]
    if answer.status_code == 422:
        assert [error for error in body["errors"] if error["loc"] and error["msg"]], body
    assert "Traceback" not in answer.text
    return answer.status_code, body["code"]


async def logged(sessions: SessionFactory) -> list[tuple[str, Any]]:
    """Return the type and payload of every event in the log, in order."""
    async with sessions() as session:
        rows = await session.execute(select(LoggedEvent.type, LoggedEvent.payload).order_by(LoggedEvent.seq))
        return [(row.type, row.payload) for row in rows]
