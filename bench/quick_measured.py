"""Measure the checkout in the current directory for `bench/quick.py`, which runs this file with its packages.

It reads the name of a workload from each line of standard input, runs it, and writes its costs as JSON. A request is
measured within one process and over a real PostgreSQL, without the HTTP server. It has a bearer token, except for those
"by session" and for pages. A message is measured from the post to the email in the real processes, including PostgreSQL
and the broker; not with BRIEF=1.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any, Self

import uvloop

from bench.stage import BODY, Line, Stage, running_stage, spent, talk
from bench.wal import log_position, written_since
from deploy.cli import SERVICES
from deploy.local.postgres import OWNER, create_databases, throwaway_postgres
from services.conversations.app import create_app
from services.conversations.identity import sessions
from services.conversations.rules import Side
from services.conversations.settings import ApiSettings
from shared.settings import Role
from tests.helpers.waiting import eventually
from tests.system.helpers.product import SECRET, headers_of

try:
    from shared.auth.tokens import issue_session_token
    from shared.database.migrations import upgrade
    from shared.observability.logs import configure_logging
    from shared.process.running import tune_gc
except ModuleNotFoundError:  # the other checkout is of a time when `shared` had no packages
    from shared.migrations import upgrade  # type: ignore[import-not-found,no-redef]
    from shared.processes import tune_gc  # type: ignore[import-not-found,no-redef]

    from shared.auth import issue_session_token  # type: ignore[attr-defined,no-redef]
    from shared.observability import configure_logging  # type: ignore[attr-defined,no-redef]

BRIEF = bool(os.environ.get("BRIEF"))
CUSTOMERS = 8 if BRIEF else 32
WIDTH = 16  # requests at the same time
MESSAGES = 50  # in a thread
TALKS = 20_000
PAGES = ("inbox page", "thread page")
MESSAGE = "message"  # the workload from post to email
POSTED = 200  # of them in one run
STATUS_DELAY = 3.0  # seconds within which the status of the emails is written into timelines
# Named here because the other checkout may have another list.
OURS = ("api", "notifications-api", "relay", "jobs", "worker", "sweeper")

Request = Callable[[int], Awaitable[int]]
Run = Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]


async def main() -> None:
    """Write the names of the workloads, and run those that are asked for."""
    configure_logging("bench")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(_running_postgres(directory))
            stage = None if BRIEF else await stack.enter_async_context(running_stage(directory, talks=TALKS))
            run = await stack.enter_async_context(_running_uvloop())
            workloads = await run(_requests(url))
            tune_gc()  # as in a deployment
            print(json.dumps([*workloads, MESSAGE] if stage else [*workloads]), flush=True)
            numbers = count()
            while workload := (await asyncio.to_thread(sys.stdin.readline)).strip():
                if stage is not None and workload == MESSAGE:
                    costs = await _measure_messages(stage, numbers)
                else:
                    costs = await run(_measure_requests(workload, *workloads[workload]))
                print(json.dumps(costs), flush=True)


@asynccontextmanager
async def _running_postgres(directory: Path) -> AsyncIterator[str]:
    """Run a PostgreSQL with a migrated database for the requests; yield its URL."""
    async with throwaway_postgres(directory / "requests") as server:
        await create_databases(server, {f"conversations{suffix}": "test" for suffix in ("", OWNER)})
        url = server.url("conversations", "conversations", "test")
        owner = server.url("conversations", f"conversations{OWNER}", "test")
        await asyncio.to_thread(upgrade, SERVICES / "conversations", url, owner)
        yield url


@asynccontextmanager
async def _running_uvloop() -> AsyncIterator[Run]:
    """Run the event loop of a deployment in a thread, because it cannot start PostgreSQL as another user."""
    loop = uvloop.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda work: asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)


async def _measure_requests(kind: str, requests: int, send: Request) -> dict[str, float]:
    requests //= 4 if BRIEF else 1
    numbers = iter(range(requests))
    waits: list[float] = []

    async def one_after_another() -> None:
        for number in numbers:
            sent = time.perf_counter()
            status = await send(number)
            waits.append(time.perf_counter() - sent)
            if status not in {200, 201}:
                raise RuntimeError(
                    f"{kind}: a request was answered with {status}"
                )  # ends the loop's task, not its thread

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one_after_another() for _ in range(WIDTH)))
    costs = {f"{kind}, µs": (time.process_time() - cpu) / requests}
    if kind in PAGES:
        costs[f"{kind}, µs of time"] = (time.perf_counter() - begun) / requests  # the inverse of pages a second
        costs[f"{kind}, µs p99"] = sorted(waits)[requests * 99 // 100]
    return {name: seconds * 1e6 for name, seconds in costs.items()}


async def _measure_messages(stage: Stage, numbers: "count[int]") -> dict[str, float]:
    """Post replies, each to another conversation, and wait for their emails."""
    if not stage.product.runs("worker"):
        await stage.product.start(*OURS)
    before, position = await spent(stage, OURS), await log_position(stage.conversations)
    taken = stage.sink.count()
    posting = iter(range(POSTED))

    async def post(line: Line) -> None:
        for _ in posting:
            await line.reply(talk(next(numbers) % TALKS), BODY)

    async with asyncio.TaskGroup() as group:
        for _ in range(WIDTH):
            group.create_task(_posting(stage, post))
    await eventually(lambda: stage.sink.count() >= taken + POSTED, deadline=120)
    cpu, _ = (await spent(stage, OURS)).per(before, POSTED)
    await asyncio.sleep(STATUS_DELAY)
    written = await written_since((stage.conversations, stage.notifications), position)
    memory = sum(process.memory_full_info().pss for process in stage.product.family("worker"))
    return {
        "message, µs of ours": sum(cpu[name] for name in OURS) * 1e3,
        "message, µs of servers": sum(cpu[name] for name in cpu if name not in OURS) * 1e3,
        "message, bytes of WAL": sum(table.changes for table in written.values()) / POSTED,  # without whole pages
        "worker, KiB of memory": memory / 1024,
    }


async def _posting(stage: Stage, post: Callable[[Line], Awaitable[None]]) -> None:
    async with Line(stage.product.ports["api"]) as line:
        await post(line)


async def _requests(url: str) -> dict[str, tuple[int, Request]]:
    """Create conversations, and return kinds of requests, each with a number of them for one run."""
    settings = ApiSettings(conversations_database_url=url, auth_secret=[SECRET], redis_url=None)
    app = create_app(settings)
    customers = [f"C-{number}" for number in range(CUSTOMERS)]
    clients = {customer: _Client.by_token(app, customer, "customer") for customer in customers}
    admin = _Client.by_token(app, "sam", "admin")
    conversations = {}
    for customer, client in clients.items():
        for number in range(30):
            opened = await client.request("POST", "/api/v1/conversations", {"subject": f"{number}", "body": "Where?"})
            conversations[customer] = json.loads(opened)["id"]
    for customer, client in clients.items():
        path = f"/api/v1/conversations/{conversations[customer]}/messages"
        for _ in range(MESSAGES - 1):
            await client.request("POST", path, {"body": "My parcel has not arrived. Where is it? " * 5})
    await admin.request("GET", "/api/v1/admin/conversations")  # creates the admin's user
    browsers = {customer: await _Client.by_session(app, settings, customer, "customer") for customer in customers}
    desk = await _Client.by_session(app, settings, "sam", "admin")

    def reading(path: str, by: dict[str, _Client] | _Client = clients) -> Request:
        async def read(number: int) -> int:
            customer = customers[number % CUSTOMERS]
            client = by if isinstance(by, _Client) else by[customer]
            return await client.status("GET", path.format(conversations[customer]))

        return read

    def posting(by: dict[str, _Client]) -> Request:
        async def post(number: int) -> int:
            customer = customers[number % CUSTOMERS]
            path = f"/api/v1/conversations/{conversations[customer]}/messages"
            return await by[customer].status("POST", path, {"body": "Where is my parcel?"})

        return post

    return {
        "badge": (1200, reading("/api/v1/unread")),
        "badge by session": (1200, reading("/api/v1/unread", browsers)),
        "customer's list": (500, reading("/api/v1/conversations")),
        "inbox": (500, reading("/api/v1/admin/conversations", admin)),
        "thread": (500, reading("/api/v1/conversations/{}/messages?limit=50&order=desc")),
        "post": (800, posting(clients)),
        "post by session": (800, posting(browsers)),
        "create": (400, _creating(customers, clients)),
        "create by session": (400, _creating(customers, browsers)),
        "admin's create": (400, _creating(customers, admin)),
        "inbox page": (200, reading("/admin/dashboard/conversation/", desk)),
        "thread page": (200, reading("/dashboard/messages/{}/", browsers)),
    }


def _creating(customers: Sequence[str], by: "dict[str, _Client] | _Client") -> Request:
    """Return requests that create conversations of customers, by themselves or by one admin."""

    async def create(number: int) -> int:
        customer = customers[number % CUSTOMERS]
        new = {"subject": "My parcel", "body": "Where is my parcel?"}
        if isinstance(by, _Client):
            return await by.status("POST", "/api/v1/admin/conversations", {"user_id": customer, **new})
        return await by[customer].status("POST", "/api/v1/conversations", new)

    return create


class _Client:
    """A caller of the application, without a server."""

    def __init__(self, app: Any, headers: dict[str, str]) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    @classmethod
    def by_token(cls, app: Any, sub: str, role: str) -> Self:
        """Return a caller with a bearer token."""
        return cls(app, {"authorization": headers_of(sub, role)["Authorization"]})

    @classmethod
    async def by_session(cls, app: Any, settings: ApiSettings, sub: str, role: str) -> Self:
        """Return a browser of a known user, with a new session."""
        async with app.state.sessions() as session, session.begin():
            begun = await sessions.begin(session, sub, Side(role))
        token = issue_session_token(settings, sub, Role(role), begun.id, begun.csrf)
        return cls(app, {"cookie": f"chats={token}", "x-csrf-token": begun.csrf, "sec-fetch-site": "same-origin"})

    async def status(self, method: str, path: str, body: Any = None) -> int:
        """Send a request; return its status."""
        status, _ = await self._call(method, path, body)
        return status

    async def request(self, method: str, path: str, body: Any = None) -> bytes:
        """Send a request that must succeed; return its body."""
        status, content = await self._call(method, path, body)
        assert status < 300, content
        return content

    async def _call(self, method: str, target: str, body: Any) -> tuple[int, bytes]:
        content = b"" if body is None else json.dumps(body).encode()
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (b"host", b"bench.test"),
                *self._headers,
                (b"content-type", b"application/json"),
                (b"content-length", str(len(content)).encode()),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("bench.test", 80),
            "state": {},
        }
        status, answer, received = 0, b"", False

        async def receive() -> dict[str, Any]:
            nonlocal received
            if received:
                await asyncio.sleep(3600)
            received = True
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, answer
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                answer += message.get("body", b"")

        await self._app(scope, receive, send)
        return status, answer


if __name__ == "__main__":
    asyncio.run(main())
