"""A store and its people, as the tests of the conversations service play them."""

from dataclasses import dataclass, field
from typing import Any

import httpx2
from sqlalchemy import select

from services.conversations.models import LoggedEvent
from shared.database import SessionFactory

ORDER = {
    "user_id": "anna",
    "number": "1007",
    "status": "shipped",
    "total": "59.90",
    "currency": "EUR",
    "placed_at": "2026-01-02T03:04:05Z",
}


NOBODYS = "01900000-0000-7000-8000-000000000000"
"""The id of nothing that is there."""


@dataclass(frozen=True)
class Caller:
    """Somebody with a token, whose paths begin with `prefix`."""

    api: httpx2.AsyncClient
    prefix: str
    headers: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, path: str, json: Any = None, *, key: str | None = None, **more: Any) -> Any:
        """Send a request; what is not JSON goes as `content`, further headers as `headers`."""
        headers = self.headers | more.pop("headers", {}) | ({"Idempotency-Key": key} if key else {})
        body = {} if json is None else {"json": json}
        return await self.api.request(method, self.prefix + path, headers=headers, **body, **more)

    async def get(self, path: str, **params: Any) -> Any:
        """Return what a path shows."""
        answer = await self.call("GET", path, params=params)
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

    async def peek(self, conversation: str) -> Any:
        """Return a conversation without reading it."""
        return await self.get(f"/conversations/{conversation}", peek="true")

    async def edit(self, conversation: str, **fields: Any) -> Any:
        """Send the edit form and return the conversation."""
        answer = await self.call("PATCH", f"/conversations/{conversation}", fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def pages(self, path: str, **params: Any) -> list[Any]:
        """Return all pages of a list, each a list of items."""
        found, cursor = [], None
        while True:
            page = await self.get(path, **params, **({"cursor": cursor} if cursor else {}))
            found.append(page["items"])
            if (cursor := page["next_cursor"]) is None:
                return found


def problem(answer: httpx2.Response) -> tuple[int, str]:
    """Return an error's status and code, once it has been shown to be a whole problem+json."""
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
