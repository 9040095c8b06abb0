"""Compare this checkout with its merge base in under five minutes: `python -m bench.quick`, BASE=main, ROUNDS=11.

Both run side by side, each in a process of its own, and take turns. The figures are microseconds of CPU of the service
for a request, within one process and over a real PostgreSQL, without the HTTP server; event loop and garbage collector
are set up as in a deployment. A ratio below 1 is cheaper than the merge base. The interval holds the median ratio with
more than 95 % confidence (by order statistics). Requests come with a bearer token, except for "by session".
"""

import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import uvloop

ROUNDS = int(os.environ.get("ROUNDS", "11"))
CUSTOMERS = 32
WIDTH = 16  # requests at the same time
MESSAGES = 50  # in a thread

Workload = Callable[[int], Awaitable[int]]


def main() -> None:
    """Build the merge base beside this checkout, measure both in turns, and print the ratios."""
    here = Path(__file__).resolve().parent.parent
    base = _git(here, "merge-base", "HEAD", os.environ.get("BASE", "main"))
    if base == _git(here, "rev-parse", "HEAD"):
        base = _git(here, "rev-parse", "HEAD~1")
    print(f"against {_git(here, 'log', '-1', '--format=%h %s', base)}\n")
    with tempfile.TemporaryDirectory() as name:
        checkout = Path(name) / "base"
        _git(here, "worktree", "add", "--detach", str(checkout), base)
        try:
            with _Measured(checkout) as old, _Measured(here) as new:
                _compare(old, new)
        finally:
            _git(here, "worktree", "remove", "--force", str(checkout))


def _compare(old: "_Measured", new: "_Measured") -> None:
    print(f"{'workload':18} {'before µs':>10} {'now µs':>10} {'ratio':>7}   interval")
    for workload in new.workloads:
        if workload not in old.workloads:
            continue
        rounds: list[tuple[float, float]] = []
        for number in range(ROUNDS):
            pair = (old, new) if number % 2 else (new, old)
            costs = {checkout: checkout.run(workload) for checkout in pair}
            rounds.append((costs[old], costs[new]))
        ratios = sorted(now / before for before, now in rounds)
        low, high = _interval(ratios)
        before, now = (statistics.median(cost) for cost in zip(*rounds, strict=True))
        print(
            f"{workload:18} {before:10.0f} {now:10.0f} {statistics.median(ratios):7.2f}   {low:.2f} to {high:.2f}",
            flush=True,
        )


def _interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Return the narrowest pair of order statistics that holds the median with at least 95 % confidence."""
    count = len(ordered)
    outside, rank = 0.0, 0
    while 2 * (outside + math.comb(count, rank) / 2**count) <= 0.05:
        outside += math.comb(count, rank) / 2**count
        rank += 1
    rank = max(rank - 1, 0)
    return ordered[rank], ordered[-1 - rank]


class _Measured:
    """A process that measures a checkout, on request."""

    def __init__(self, checkout: Path) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this file
            [sys.executable, str(Path(__file__).resolve()), "--measure"],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the log lines of requests: their cost counts
            text=True,
        )
        self.workloads: list[str] = []

    def __enter__(self) -> Self:
        self.workloads = self._answer()
        for workload in self.workloads:  # warm up
            self.run(workload)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, workload: str) -> float:
        """Run a workload once; return the CPU for a request, in microseconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{workload}\n")
        self._process.stdin.flush()
        cost: float = self._answer()
        return cost

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the measuring process ended with {self._process.wait()}")
        return json.loads(line)


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 - git


async def measure() -> None:
    """Measure the checkout in the current directory: read the names of workloads, write what a request costs."""
    # Imported here, from the checkout that is measured.
    from deploy.cli import SERVICES
    from deploy.local.postgres import OWNER, create_databases, throwaway_postgres
    from shared.migrations import upgrade
    from shared.observability import configure_logging

    configure_logging("bench")
    with tempfile.TemporaryDirectory() as name:
        async with throwaway_postgres(Path(name) / "postgres") as server:
            await create_databases(server, {f"conversations{suffix}": "test" for suffix in ("", OWNER)})
            url = server.url("conversations", "conversations", "test")
            owner = server.url("conversations", f"conversations{OWNER}", "test")
            await asyncio.to_thread(upgrade, SERVICES / "conversations", url, owner)
            await asyncio.to_thread(uvloop.run, _measure_over(url))


async def _measure_over(url: str) -> None:
    from services.conversations.app import create_app
    from services.conversations.settings import ApiSettings
    from shared.processes import tune_gc
    from tests.system.helpers.product import SECRET

    settings = ApiSettings(conversations_database_url=url, auth_secret=[SECRET], redis_url=None)
    workloads = await _workloads(create_app(settings), settings)
    tune_gc()
    await _serve(workloads)


async def _serve(workloads: dict[str, tuple[int, Workload]]) -> None:
    print(json.dumps(list(workloads)), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        count, request = workloads[line.strip()]
        numbers = iter(range(count))

        async def one_after_another(request: Workload = request, numbers: Any = numbers) -> None:
            for number in numbers:
                status = await request(number)
                if status not in {200, 201}:
                    raise SystemExit(f"{line.strip()}: a request was answered with {status}")

        begun = time.process_time()
        await asyncio.gather(*(one_after_another() for _ in range(WIDTH)))
        print((time.process_time() - begun) / count * 1e6, flush=True)


async def _workloads(app: Any, settings: Any) -> dict[str, tuple[int, Workload]]:
    """Create conversations, and return each workload with its number of requests."""
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

    def reading(path: str, by: dict[str, _Client] | _Client = clients) -> Workload:
        async def read(number: int) -> int:
            customer = customers[number % CUSTOMERS]
            client = by if isinstance(by, _Client) else by[customer]
            return await client.status("GET", path.format(conversations[customer]))

        return read

    def posting(by: dict[str, _Client]) -> Workload:
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
        "inbox page": (100, reading("/admin/dashboard/conversation/", desk)),
        "thread page": (100, reading("/dashboard/messages/{}/", browsers)),
    }


class _Client:
    """A caller of the application, without a server."""

    def __init__(self, app: Any, headers: dict[str, str]) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    @classmethod
    def by_token(cls, app: Any, sub: str, role: str) -> Self:
        """Return a caller with a bearer token."""
        from tests.system.helpers.product import headers_of

        return cls(app, {"authorization": headers_of(sub, role)["Authorization"]})

    @classmethod
    async def by_session(cls, app: Any, settings: Any, sub: str, role: str) -> Self:
        """Return a browser of a known user, with a new session."""
        from services.conversations.identity import sessions
        from services.conversations.rules import Side
        from shared.auth import Role, issue_session_token

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
    if "--measure" in sys.argv:
        asyncio.run(measure())
    else:
        main()
