"""Measure reading over HTTP against the database's own limit: `python -m bench.reading`, SECONDS=4, ROUNDS=5.

A page of the list, a deep one, a thread, a badge, with token and limits of size, from as many API processes as the
machine has cores, wrk as the load over 16 connections. The yardstick, alternating with it in the same run, is pgbench
with the statements that such a request is, taken from the application as it says them, over as many connections.
"""

import asyncio
import os
import statistics
import tempfile
from pathlib import Path

import httpx2
from pydantic import SecretStr

from bench.growth import ADMIN, Client, deep_page, find_thread
from bench.load import Load, run_pgbench, run_wrk, wrk_is_there
from bench.stores import Store, filled_stores, running_apis
from services.conversations.app import create_app
from services.conversations.settings import ApiSettings
from shared.database import create_engine, create_sessions
from shared.observability import configure_logging
from tests.service.connected import connect
from tests.service.statements import statements
from tests.system.product import SECRET, headers_of

MESSAGES = int(os.environ.get("MESSAGES", "1000000"))
SECONDS = float(os.environ.get("SECONDS", "4"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
CONNECTIONS = 16
ASKED = 0.30

Request = tuple[str, str, str]  # path, who, in which role


async def main() -> None:
    """Print each kind of request, the medians of both and of their ratio."""
    if not wrk_is_there():
        raise SystemExit("wrk, which makes the load, is not installed; on Debian: apt install wrk")
    configure_logging("bench", "error")
    with tempfile.TemporaryDirectory() as name:
        async with filled_stores(Path(name), [MESSAGES]) as [store]:
            await measure(Path(name), store)


async def measure(directory: Path, store: Store) -> None:
    """Measure a store, and print."""
    async with running_apis(directory, [store] * (os.cpu_count() or 1), CHATS_LOG_LEVEL="warning") as ports:
        for what, request in (await _requests(store, Client(ports[0]))).items():
            path, sub, role = request
            lua, sql = directory / "read.lua", directory / "read.sql"
            lua.write_text(f'wrk.headers["Authorization"] = "{headers_of(sub, role)["Authorization"]}"\n')
            statements = await _statements(store, request)
            sql.write_text("".join(f"{statement};\n" for statement in statements))
            await run_wrk(ports, CONNECTIONS, 1, lua, path)  # warms up connections and caches
            ours: list[Load] = []
            limit: list[Load] = []
            for _ in range(ROUNDS):
                limit.append(await run_pgbench(store.url, CONNECTIONS, SECONDS, sql))
                ours.append(await run_wrk(ports, CONNECTIONS, SECONDS, lua, path))
            ratio = statistics.median(one.rate / other.rate for one, other in zip(ours, limit, strict=True))
            print(
                f"{what:28} {_median(ours, 'rate'):6.0f}/s, p99 {_median(ours, 'p99'):5.1f} ms   pgbench"
                f" {_median(limit, 'rate'):6.0f}/s, p99 {_median(limit, 'p99'):5.1f} ms   ratio {ratio:.2f}"
                f"{' !' * (ratio < ASKED)}   {len(statements)} statements",
                flush=True,
            )


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
    """Return what the application says to the database for a request, with its values in their places."""
    path, sub, role = request
    engine = create_engine(store.url, application="bench", pool_size=1)
    app = create_app(ApiSettings(conversations_database_url=store.url, auth_secret=[SecretStr(SECRET)], redis_url=None))
    connect(app, create_sessions(engine))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://bench.test") as client:
        await client.get(path, headers=headers_of(sub, role))  # whoever is new here is known from now on
        async with statements(engine) as said:
            (await client.get(path, headers=headers_of(sub, role))).raise_for_status()
    await engine.dispose()
    return [one.alone for one in said]


def _median(loads: list[Load], name: str) -> float:
    return float(statistics.median(getattr(load, name) for load in loads))


if __name__ == "__main__":
    asyncio.run(main())
