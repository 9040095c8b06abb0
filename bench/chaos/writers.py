"""Writers on both sides: they post, edit, read, close and delete, and retry until each request succeeds."""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from bench.chaos.history import Conversation, History, Posted

TIMEOUT = 10.0  # seconds until a writer gives a request up and sends it again
TRY_AGAIN = {502, 503, 504}
MAX_ODD = 20  # unexpected responses to one request until the run fails

Headers = Callable[[str, str], Mapping[str, str]]


@dataclass
class Desk:
    """What all writers share: the open conversations, and the credentials."""

    url: str
    history: History
    headers: Headers
    customers: Collection[str]
    whole: bool = True
    """Whether the system supports more than posting: reading, editing, closing, deleting."""
    conversations: list[Conversation] = field(default_factory=list)


class Writer:
    """A writer, with one persistent connection."""

    def __init__(self, desk: Desk, side: str, seed: str, pause: float) -> None:
        self.desk = desk
        self.side = side
        self.rng = random.Random(seed)
        self.pause = pause
        self.http = httpx2.AsyncClient(base_url=desk.url, timeout=TIMEOUT, trust_env=False)

    async def write(self, stop: asyncio.Event) -> None:
        """Post until `stop`, and finish the last request."""
        while not stop.is_set():
            await (self._as_admin if self.side == "admin" else self._as_customer)()
            await asyncio.sleep(self.rng.random() * self.pause)
        await self.http.aclose()

    async def open_conversation(self, *, by_admin: bool = False) -> None:
        """Open a conversation as any customer, or as an admin with a known one: a transaction of several statements."""
        customers = (
            [conversation.customer for conversation in self.desk.conversations]
            if by_admin
            else list(self.desk.customers)
        )
        customer, token = self.rng.choice(customers), self._token()
        body = {"subject": "Where is my parcel?", "body": f"chaos-{token}"} | (
            {"user_id": customer} if by_admin else {}
        )
        path = f"/api/v1{'/admin' if by_admin else ''}/conversations"
        caller = ("sam", "admin") if by_admin else (customer, "customer")
        started = time.monotonic()
        created = (await self._until("POST", path, caller, {201}, token, json=body)).json()
        conversation = Conversation(created["id"], customer)
        self._acknowledge(created["last_message"]["id"], conversation, token, started, by_admin=by_admin)
        self.desk.conversations.append(conversation)

    async def _as_customer(self) -> None:
        conversation = self.rng.choice(self.desk.conversations)
        if self.desk.whole and self.rng.random() < 0.05:
            conversation.writing += 1
            await self._until(
                "GET", f"/api/v1/conversations/{conversation.id}", (conversation.customer, "customer"), {200}
            )
            conversation.writing -= 1
            self.desk.history.reads += 1
        else:
            await self._post(conversation, "/api/v1", (conversation.customer, "customer"))

    async def _as_admin(self) -> None:
        dice = self.rng.random() if self.desk.whole else 1.0
        conversation = self.rng.choice(self.desk.conversations)
        if dice < 0.01 and len(self.desk.conversations) > 1:
            await self._close(conversation)
        elif dice < 0.2:
            await self._edit(conversation, {"status": self.rng.choice(("AWAITING_USER", "RESOLVED"))})
        else:
            await self._post(conversation, "/api/v1/admin", ("sam", "admin"))

    async def _post(self, conversation: Conversation, prefix: str, caller: tuple[str, str]) -> None:
        token, started = self._token(), time.monotonic()
        conversation.writing += 1
        path = f"{prefix}/conversations/{conversation.id}/messages"
        answer = await self._until("POST", path, caller, {201}, token, json={"body": f"chaos-{token}"})
        conversation.writing -= 1
        self._acknowledge(answer.json()["id"], conversation, token, started, by_admin=caller[1] == "admin")

    async def _edit(self, conversation: Conversation, body: dict[str, str]) -> None:
        """Post by editing the conversation."""
        token, started, admin = self._token(), time.monotonic(), ("sam", "admin")
        path = f"/api/v1/admin/conversations/{conversation.id}"
        conversation.writing += 1
        body = {"reply_body": f"chaos-{token}", **body}
        last = (await self._until("PATCH", path, admin, {200}, token, json=body)).json()["last_message"]
        if last["preview"] != body["reply_body"]:  # a replayed response, and there are newer messages
            newest = await self._until("GET", f"{path}/messages?order=desc&limit=100", admin, {200})
            last = next(message for message in newest.json()["items"] if message["body"] == body["reply_body"])
        conversation.writing -= 1
        self._acknowledge(last["id"], conversation, token, started, by_admin=True)

    async def _close(self, conversation: Conversation) -> None:
        """Close a conversation once no request is in progress, sometimes delete it, and open a new one."""
        self.desk.conversations.remove(conversation)
        while conversation.writing:  # noqa: ASYNC110 - rare, so an event would only be more code
            await asyncio.sleep(0.05)
        await self._edit(conversation, {"status": "CLOSED"})
        if self.rng.random() < 0.2:
            self.desk.history.delete(conversation)
            await self._until("DELETE", f"/api/v1/admin/conversations/{conversation.id}", ("sam", "admin"), {204, 404})
        await self.open_conversation(by_admin=self.rng.random() < 0.5)

    def _token(self) -> str:
        return f"{self.rng.getrandbits(64):016x}"

    def _acknowledge(
        self, message_id: str, conversation: Conversation, token: str, started: float, *, by_admin: bool
    ) -> None:
        posted = Posted(message_id, conversation, by_admin, token)
        self.desk.history.acknowledge(posted, time.monotonic() - started)

    async def _until(
        self,
        method: str,
        path: str,
        caller: tuple[str, str],
        done: Collection[int],
        key: str | None = None,
        **options: Any,
    ) -> httpx2.Response:
        """Repeat a request until its response is the expected one."""
        headers = dict(self.desk.headers(*caller)) | ({"Idempotency-Key": key} if key else {})
        history, odd = self.desk.history, 0
        while True:
            try:
                answer = await self.http.request(method, path, headers=headers, **options)
            except (httpx2.HTTPError, OSError):
                pass
            else:
                if answer.status_code in done:
                    return answer
                if answer.status_code not in TRY_AGAIN:
                    history.odd[f"{method} answered with {answer.status_code}"] += 1
                    odd += 1
                    if odd == MAX_ODD:
                        raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
            history.retries += 1
            await asyncio.sleep(0.05 + self.rng.random() * 0.1)
