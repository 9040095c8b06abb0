"""People on both sides: they post, answer, read, settle and delete, and try again until they are answered."""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from bench.chaos.history import History, Posted, Talk

PATIENCE = 10.0  # seconds until somebody takes a request for lost and sends it again
TRY_AGAIN = {502, 503, 504}
MAX_ODD = 20  # answers that make no sense to one request, until it is given up

Headers = Callable[[str, str], Mapping[str, str]]


@dataclass
class Desk:
    """What all writers share: the open conversations, and how they log in."""

    url: str
    history: History
    headers: Headers
    customers: Collection[str]
    whole: bool = True
    """Whether the system can do more than post: read, answer in the edit form, settle, delete."""
    talks: list[Talk] = field(default_factory=list)


class Writer:
    """One person at a time, over one kept connection."""

    def __init__(self, desk: Desk, side: str, seed: str, pause: float) -> None:
        self.desk = desk
        self.side = side
        self.rng = random.Random(seed)
        self.pause = pause
        self.http = httpx2.AsyncClient(base_url=desk.url, timeout=PATIENCE, trust_env=False)

    async def write(self, stop: asyncio.Event) -> None:
        """Write until `stop`, and then still until the last request is answered."""
        while not stop.is_set():
            await (self._as_admin if self.side == "admin" else self._as_customer)()
            await asyncio.sleep(self.rng.random() * self.pause)
        await self.http.aclose()

    async def open_talk(self, *, by_admin: bool = False) -> None:
        """Open a conversation as some customer, or with one who is known: a transaction of several statements."""
        customers = [talk.customer for talk in self.desk.talks] if by_admin else list(self.desk.customers)
        customer, token = self.rng.choice(customers), self._token()
        body = {"subject": "Where is my parcel?", "body": f"chaos-{token}"} | (
            {"user_id": customer} if by_admin else {}
        )
        path = f"/api/v1{'/admin' if by_admin else ''}/conversations"
        who = ("sam", "admin") if by_admin else (customer, "customer")
        started = time.monotonic()
        created = (await self._until("POST", path, who, {201}, token, json=body)).json()
        talk = Talk(created["id"], customer)
        self._acknowledge(created["last_message"]["id"], talk, token, started, by_admin=by_admin)
        self.desk.talks.append(talk)

    async def _as_customer(self) -> None:
        talk = self.rng.choice(self.desk.talks)
        if self.desk.whole and self.rng.random() < 0.05:
            talk.writing += 1
            await self._until("GET", f"/api/v1/conversations/{talk.id}", (talk.customer, "customer"), {200})
            talk.writing -= 1
            self.desk.history.reads += 1
        else:
            await self._post(talk, "/api/v1", (talk.customer, "customer"))

    async def _as_admin(self) -> None:
        dice = self.rng.random() if self.desk.whole else 1.0
        talk = self.rng.choice(self.desk.talks)
        if dice < 0.01 and len(self.desk.talks) > 1:
            await self._settle(talk)
        elif dice < 0.2:
            await self._edit(talk, {"status": self.rng.choice(("AWAITING_USER", "RESOLVED"))})
        else:
            await self._post(talk, "/api/v1/admin", ("sam", "admin"))

    async def _post(self, talk: Talk, prefix: str, who: tuple[str, str]) -> None:
        token, started = self._token(), time.monotonic()
        talk.writing += 1
        path = f"{prefix}/conversations/{talk.id}/messages"
        answer = await self._until("POST", path, who, {201}, token, json={"body": f"chaos-{token}"})
        talk.writing -= 1
        self._acknowledge(answer.json()["id"], talk, token, started, by_admin=who[1] == "admin")

    async def _edit(self, talk: Talk, body: dict[str, str]) -> None:
        """Answer through the edit form."""
        token, started, admin = self._token(), time.monotonic(), ("sam", "admin")
        path = f"/api/v1/admin/conversations/{talk.id}"
        talk.writing += 1
        body = {"reply_body": f"chaos-{token}", **body}
        last = (await self._until("PATCH", path, admin, {200}, token, json=body)).json()["last_message"]
        if last["preview"] != body["reply_body"]:  # a replay, and others have written since
            newest = await self._until("GET", f"{path}/messages?order=desc&limit=100", admin, {200})
            last = next(one for one in newest.json()["items"] if one["body"] == body["reply_body"])
        talk.writing -= 1
        self._acknowledge(last["id"], talk, token, started, by_admin=True)

    async def _settle(self, talk: Talk) -> None:
        """Close a conversation once nobody writes in it, sometimes delete it, and open a new one in its place."""
        self.desk.talks.remove(talk)
        while talk.writing:  # noqa: ASYNC110 - so seldom that an event for it would be the more to read
            await asyncio.sleep(0.05)
        await self._edit(talk, {"status": "CLOSED"})
        if self.rng.random() < 0.2:
            self.desk.history.delete(talk)
            await self._until("DELETE", f"/api/v1/admin/conversations/{talk.id}", ("sam", "admin"), {204, 404})
        await self.open_talk(by_admin=self.rng.random() < 0.5)

    def _token(self) -> str:
        return f"{self.rng.getrandbits(64):016x}"

    def _acknowledge(self, identity: str, talk: Talk, token: str, started: float, *, by_admin: bool) -> None:
        posted = Posted(identity, talk, by_admin, token)
        self.desk.history.acknowledge(posted, time.monotonic() - started)

    async def _until(
        self,
        method: str,
        path: str,
        who: tuple[str, str],
        done: Collection[int],
        key: str | None = None,
        **options: Any,
    ) -> httpx2.Response:
        """Send a request until it is answered with what was asked for."""
        headers = dict(self.desk.headers(*who)) | ({"Idempotency-Key": key} if key else {})
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
