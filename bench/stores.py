"""Stores of several sizes in one PostgreSQL, and API processes for them."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from bench.growth_data import fill
from deploy.cli import SERVICES
from deploy.local.ports import free_ports
from deploy.local.postgres import OWNER, THROWAWAY, Server, create_databases, postgres, throwaway_files
from deploy.local.processes import Child, end, spawn
from deploy.local.readiness import answers_ok
from shared.database.migrations import upgrade
from tests.helpers.waiting import eventually
from tests.system.helpers.processes import without_settings
from tests.system.helpers.product import SECRET

# Typical settings for a machine of this size; the rest are PostgreSQL's defaults.
SETTINGS = {**THROWAWAY, "shared_buffers": "2GB", "max_wal_size": "8GB"}


@dataclass(frozen=True)
class Store:
    """A filled database, with the product's URL and a superuser's."""

    messages: int
    url: str
    superuser_url: str


@asynccontextmanager
async def filled_stores(directory: Path, sizes: Sequence[int]) -> AsyncIterator[list[Store]]:
    """Run a temporary PostgreSQL with a database for each size, in messages."""
    async with throwaway_files(directory / "postgres") as server:
        child = postgres(server, directory / "postgres.log", SETTINGS)
        process = await spawn(child)
        try:
            await eventually(child.ready, 60)
            stores = [Store(size, *_urls(server, f"store{size}")) for size in sizes]
            await create_databases(server, dict(_passwords(sizes)))
            for store in stores:
                owner_url = store.url.replace(f"store{store.messages}:", f"store{store.messages}{OWNER}:")
                await asyncio.to_thread(upgrade, SERVICES / "conversations", store.url, owner_url)
                await fill(store.superuser_url, store.messages)
            yield stores
        finally:
            await end(process, signal.SIGINT, child.grace)


@asynccontextmanager
async def running_apis(directory: Path, stores: Sequence[Store], **settings: str) -> AsyncIterator[list[int]]:
    """Run an API process for each of the stores, which may be the same; yield their ports."""
    async with AsyncExitStack() as stack:
        ports = free_ports([0] * len(stores))
        for store, port in zip(stores, ports, strict=True):
            environment = without_settings() | {
                "CHATS_CONVERSATIONS_DATABASE_URL": store.url,
                "CHATS_BROKER_URL": "amqp://nobody",
                "CHATS_AUTH_SECRET": SECRET,
                "CHATS_DATA_DIR": str(directory),
                **settings,
            }
            child = Child(
                name="api",
                command=[sys.executable, "-m", "deploy.cli", "api", "--port", str(port)],
                log=directory / f"api-{port}.log",
                ready=answers_ok(port, "/readyz"),
                environment=environment,
            )
            stack.push_async_callback(end, await spawn(child), signal.SIGTERM, 5.0)
            await eventually(child.ready, 60)
        yield ports


async def ask(store: Store, query: str, *values: object) -> asyncpg.Record:
    """Return the first row of a query."""
    connection = await asyncpg.connect(store.superuser_url)
    try:
        row = await connection.fetchrow(query, *values)
        assert row is not None, query
        return row
    finally:
        await connection.close()


def _urls(server: Server, name: str) -> tuple[str, str]:
    return server.url(name, name, "bench"), server.url(name)


def _passwords(sizes: Sequence[int]) -> Iterator[tuple[str, str]]:
    for size in sizes:
        yield f"store{size}{OWNER}", "bench"
        yield f"store{size}", "bench"
