"""Measure reading over HTTP against the database's own limit: `python -m bench.reading`, SECONDS=4, ROUNDS=5.

Pages of lists, a deep page, a thread and badges, with token and size limits, from as many API processes as the machine
has cores, with wrk over 16 connections. The yardstick, alternating in the same run, is pgbench over as many connections
with the statements of such a request, recorded from the application.
The floor is the cost of HTTP in Python: one word, from Starlette and from FastAPI (`bare_http.py`).
"""

import asyncio
import math
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import psutil
from pydantic import SecretStr

from bench.growth import ADMIN, Client, deep_page, find_thread
from bench.load import Load, run_pgbench, run_wrk, wrk_is_there
from bench.stores import Store, filled_stores, running_apis
from deploy.local.ports import free_ports
from deploy.local.processes import Child, end, spawn
from deploy.local.readiness import answers_ok
from services.conversations.app import create_app
from services.conversations.settings import ApiSettings
from shared.database.engine import create_engine
from shared.database.transactions import create_sessions
from shared.observability.logs import configure_logging
from tests.helpers.waiting import eventually
from tests.service.helpers.connected import connect
from tests.service.helpers.recorded_statements import statements
from tests.system.helpers.processes import without_settings
from tests.system.helpers.product import SECRET, headers_of

MESSAGES = int(os.environ.get("MESSAGES", "1000000"))
SECONDS = float(os.environ.get("SECONDS", "4"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
CONNECTIONS = 16
TARGET = 0.30

Request = tuple[str, str, str]  # path, user and role


async def main() -> None:
    """Print the medians of each kind of request, of both and of their ratio."""
    if not wrk_is_there():
        raise SystemExit("wrk, which makes the load, is not installed; on Debian: apt install wrk")
    configure_logging("bench", "error")
    with tempfile.TemporaryDirectory() as name:
        async with filled_stores(Path(name), [MESSAGES]) as [store]:
            await measure(Path(name), store)


async def measure(directory: Path, store: Store) -> None:
    """Measure the floor and a store, and print."""
    lua = directory / "nothing.lua"
    lua.write_text("")
    async with _bare_servers(os.cpu_count() or 1) as ports:
        for what in ("/starlette", "/fastapi"):
            loads = [await _under_load(ports, lua, what) for _ in range(ROUNDS)]
            print(f"{what:28} {_shown(loads)}", flush=True)
    async with running_apis(directory, [store] * (os.cpu_count() or 1), CHATS_LOG_LEVEL="warning") as ports:
        for what, request in (await _requests(store, Client(ports[0]))).items():
            path, sub, role = request
            lua, sql = directory / "read.lua", directory / "read.sql"
            lua.write_text(f'wrk.headers["Authorization"] = "{headers_of(sub, role)["Authorization"]}"\n')
            statements = await _statements(store, request)
            sql.write_text("".join(f"{statement};\n" for statement in statements))
            await run_wrk(ports, CONNECTIONS, 1, lua, path)  # warm up connections and caches
            ours: list[tuple[Load, float]] = []
            limit: list[Load] = []
            for _ in range(ROUNDS):
                limit.append(await run_pgbench(store.url, CONNECTIONS, SECONDS, sql))
                ours.append(await _under_load(ports, lua, path))
            ratio = statistics.median(own.rate / bare.rate for (own, _), bare in zip(ours, limit, strict=True))
            theirs = f"pgbench {_median(limit, 'rate'):6.0f}/s, p99 {_median(limit, 'p99'):5.1f} ms"
            missed = " !" * (ratio < TARGET)
            print(
                f"{what:28} {_shown(ours)}   {theirs}   ratio {ratio:.2f}{missed}   {len(statements)} statements",
                flush=True,
            )


@asynccontextmanager
async def _bare_servers(count: int) -> AsyncIterator[list[int]]:
    async with AsyncExitStack() as stack:
        ports = free_ports([0] * count)
        for port in ports:
            child = Child(
                name="bare",
                command=[sys.executable, "-m", "bench.bare_http", str(port)],
                log=Path(os.devnull),
                ready=answers_ok(port, "/starlette"),
                environment=without_settings(),
            )
            stack.push_async_callback(end, await spawn(child), signal.SIGTERM, 5.0)
            await eventually(child.ready, 60)
        yield ports


async def _under_load(ports: list[int], lua: Path, path: str) -> tuple[Load, float]:
    """Return the result of a load, and the servers' CPU time for a response, in microseconds."""
    before = _cpu_time(ports)
    load = await run_wrk(ports, CONNECTIONS, SECONDS, lua, path)
    return load, (_cpu_time(ports) - before) / (load.rate * math.ceil(SECONDS)) * 1e6


def _cpu_time(ports: list[int]) -> float:
    servers = [
        process for process in psutil.Process().children() if {str(port) for port in ports} & set(process.cmdline())
    ]
    return sum(sum(process.cpu_times()[:2]) for process in servers)


async def _requests(store: Store, client: Client) -> dict[str, Request]:
    own, inbox = "/api/v1/conversations", "/api/v1/admin/conversations"
    thread = await find_thread(store, 60)
    return {
        "customer's list": (own, "C-0", "customer"),
        "customer's list, deep page": (await deep_page(store, client, own, "C-0"), "C-0", "customer"),
        "inbox": (inbox, ADMIN, "admin"),
        "inbox, deep page": (await deep_page(store, client, inbox, None), ADMIN, "admin"),
        "inbox, waiting and unread": (f"{inbox}?status=OPEN&status=AWAITING_ADMIN&unread=true", ADMIN, "admin"),
        "thread": (f"{own}/{thread['id']}/messages", thread["user_id"], "customer"),
        "customer's badge": ("/api/v1/unread", "C-0", "customer"),
        "admins' badge": ("/api/v1/unread", ADMIN, "admin"),
    }


async def _statements(store: Store, request: Request) -> list[str]:
    """Return the application's statements for a request, with their values inlined."""
    path, sub, role = request
    engine = create_engine(store.url, application="bench", pool_size=1)
    app = create_app(ApiSettings(conversations_database_url=store.url, auth_secret=[SecretStr(SECRET)], redis_url=None))
    connect(app, create_sessions(engine))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://bench.test") as client:
        await client.get(path, headers=headers_of(sub, role))  # make the user known, so that it is not created below
        async with statements(engine) as recorded:
            (await client.get(path, headers=headers_of(sub, role))).raise_for_status()
    await engine.dispose()
    return [statement.alone for statement in recorded]


def _shown(ours: list[tuple[Load, float]]) -> str:
    loads = [load for load, _ in ours]
    cost = statistics.median(cost for _, cost in ours)
    return f"{_median(loads, 'rate'):6.0f}/s, p99 {_median(loads, 'p99'):5.1f} ms, CPU {cost:5.0f} µs"


def _median(loads: list[Load], name: str) -> float:
    return float(statistics.median(getattr(load, name) for load in loads))


if __name__ == "__main__":
    asyncio.run(main())
