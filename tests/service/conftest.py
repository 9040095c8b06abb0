"""Fixtures for one service on a real PostgreSQL. Migrations run once; each test leaves the databases empty."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.cli import SERVICES
from deploy.local.ports import free_ports
from deploy.local.postgres import OWNER, Server, create_databases, throwaway_postgres
from services.conversations.app import create_app as create_conversations_app
from services.conversations.models import Base as ConversationsBase
from services.conversations.settings import ApiSettings as ConversationsSettings
from services.notifications.app import create_app as create_notifications_app
from services.notifications.models import Base as NotificationsBase
from services.notifications.settings import ApiSettings as NotificationsSettings
from shared.auth.jwks import ProviderKeys
from shared.auth.tokens import issue_token
from shared.database.engine import create_engine
from shared.database.migrations import upgrade
from shared.database.transactions import SessionFactory, create_sessions
from shared.event_log.reading import read_head
from shared.process.running import create_server
from tests.helpers.identity_provider import ALGORITHMS, Provider, private_key, public_jwk, running_provider
from tests.helpers.waiting import eventually
from tests.service.helpers.callers import Caller
from tests.service.helpers.compiled_templates import share_templates
from tests.service.helpers.connected import client_of, connect
from tests.service.helpers.live_api import Live
from tests.service.helpers.provider_keys import Clock, keys_of
from tests.service.helpers.sweeping import Sweeper
from tests.service.helpers.valkey_process import Valkey

SECRET = "a secret for tests, of 32 bytes or more"
DATABASES = ("conversations", "notifications")
INBOUND_SECRET = "the secret of emails that come in"
FEED_SECRET = "the feed's own secret, also long enough"
NOBODY = "http://127.0.0.1:1"  # where nobody listens, other than at a default port beside a running product

share_templates()

Headers = dict[str, str]
As = Callable[..., Headers]


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """Run a server with an empty database, an owner and a runtime role for each service."""
    async with throwaway_postgres(tmp_path_factory.mktemp("servers") / "postgres") as server:
        await create_databases(server, {f"{name}{suffix}": "test" for name in DATABASES for suffix in ("", OWNER)})
        yield server


@pytest.fixture(scope="session")
def owner_urls(postgres: Server) -> dict[str, str]:
    """The owners' database URLs, by service, for migrations and tests that change the schema."""
    return {name: postgres.url(name, f"{name}{OWNER}", "test") for name in DATABASES}


@pytest.fixture(scope="session")
async def databases(postgres: Server, owner_urls: dict[str, str]) -> dict[str, str]:
    """The runtime roles' URLs of both migrated databases, by service. These roles own nothing."""
    urls = {name: postgres.url(name, name, "test") for name in DATABASES}
    for name, url in urls.items():
        await asyncio.to_thread(upgrade, SERVICES / name, url, owner_urls[name])
    return urls


@pytest.fixture(scope="session")
async def conversations_engine(databases: dict[str, str]) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(databases["conversations"], application="tests", pool_size=20)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
async def notifications_engine(databases: dict[str, str]) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(databases["notifications"], application="tests", pool_size=20)
    yield engine
    await engine.dispose()


@pytest.fixture
async def conversations(conversations_engine: AsyncEngine) -> AsyncIterator[SessionFactory]:
    """Database sessions on an empty conversations database."""
    yield create_sessions(conversations_engine)
    await empty_conversations(conversations_engine)


@pytest.fixture
async def notifications(notifications_engine: AsyncEngine) -> AsyncIterator[SessionFactory]:
    """Database sessions on an empty notifications database."""
    yield create_sessions(notifications_engine)
    await empty_notifications(notifications_engine)


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[Valkey]:
    """A running Valkey that a test may kill and freeze."""
    running = Valkey(tmp_path)
    try:
        await running.start()
        yield running
    finally:
        await running.close()


@pytest.fixture
def files_url(tmp_path: Path) -> str:
    """The URL of an empty file store."""
    return (tmp_path / "files").as_uri()


@pytest.fixture
async def api(
    conversations: SessionFactory, databases: dict[str, str], files_url: str
) -> AsyncIterator[httpx2.AsyncClient]:
    """An HTTP client of the conversations API."""
    settings = ConversationsSettings(
        conversations_database_url=databases["conversations"],
        auth_secret=[SECRET],
        feed_secret=FEED_SECRET,
        inbound_secret=INBOUND_SECRET,
        notifications_url=NOBODY,
        store_name="Test Store",
        redis_url=None,
        files_url=files_url,
        webhook_private_hosts="127.0.0.1,localhost",
    )
    app = create_conversations_app(settings)
    connect(app, conversations)
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def live(conversations: SessionFactory, databases: dict[str, str]) -> AsyncIterator[Live]:
    """A running conversations API, which stops at once even with open streams."""
    async with running_api(conversations, databases["conversations"]) as running:
        yield running


@asynccontextmanager
async def running_api(sessions: SessionFactory, database_url: str, redis_url: str | None = None) -> AsyncIterator[Live]:
    """Run a conversations API while the context is open."""
    settings = ConversationsSettings(
        conversations_database_url=database_url,
        auth_secret=[SECRET],
        notifications_url=NOBODY,
        store_name="Test Store",
        redis_url=redis_url,
    )
    app = create_conversations_app(settings)
    async with serving(app, on_stop=app.state.hub.close) as port:
        async with sessions() as session:
            epoch, _ = await read_head(session)
        yield Live(settings, port, app.state.hub, sessions, epoch)


@asynccontextmanager
async def serving(app: FastAPI, on_stop: Callable[[], None] | None = None) -> AsyncIterator[int]:
    """Serve an application while the context is open; yield its port."""
    [port] = free_ports([0])
    running = create_server(app, "127.0.0.1", port, on_stop=on_stop)
    task = asyncio.create_task(running._serve())  # noqa: SLF001 - serve() replaces the test run's signal handlers
    await eventually(lambda: running.started)
    try:
        yield port
    finally:
        running.should_exit = True
        async with asyncio.timeout(30):
            await task


@pytest.fixture
async def notifications_api(
    notifications: SessionFactory, databases: dict[str, str]
) -> AsyncIterator[httpx2.AsyncClient]:
    """An HTTP client of the notifications API."""
    settings = NotificationsSettings(
        notifications_database_url=databases["notifications"],
        auth_secret=[SECRET],
        feed_secret=FEED_SECRET,
        store_name="Test Store",
    )
    app = create_notifications_app(settings)
    connect(app, notifications)
    async with client_of(app) as client:
        yield client


@pytest.fixture(scope="session")
def acting_as(databases: dict[str, str]) -> As:
    """Return a function that makes a caller's headers: `acting_as("sam", "admin", name="Sam")`."""
    settings = ConversationsSettings(conversations_database_url=databases["conversations"], auth_secret=[SECRET])

    def headers(sub: str, role: str = "customer", **claims: Any) -> Headers:
        token = issue_token(settings, {"sub": sub, "role": role, **claims}, timedelta(hours=1))
        return {"Authorization": f"Bearer {token}"}

    return headers


@pytest.fixture
def anna(api: httpx2.AsyncClient, acting_as: As) -> Caller:
    """A customer."""
    return Caller(api, "/api/v1", acting_as("anna", name="Anna", email="anna@customer.test"))


@pytest.fixture
def ben(api: httpx2.AsyncClient, acting_as: As) -> Caller:
    """Another customer."""
    return Caller(api, "/api/v1", acting_as("ben"))


@pytest.fixture
def sam(api: httpx2.AsyncClient, acting_as: As) -> Caller:
    """An admin."""
    return Caller(api, "/api/v1/admin", acting_as("sam", "admin", name="Sam", email="sam@store.test"))


@pytest.fixture
def kim(api: httpx2.AsyncClient, acting_as: As) -> Caller:
    """Another admin."""
    return Caller(api, "/api/v1/admin", acting_as("kim", "admin", name="Kim"))


@pytest.fixture
def shop(api: httpx2.AsyncClient, acting_as: As) -> Caller:
    """The store's backend."""
    return Caller(api, "/api/v1/store", acting_as("shop", "store"))


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with running_provider() as running:
        running.jwks = [public_jwk(private_key(algorithm), kid=algorithm) for algorithm in ALGORITHMS]
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def keys(provider: Provider, clock: Clock) -> AsyncIterator[ProviderKeys]:
    async with keys_of(provider.url, clock) as keys:
        yield keys


@pytest.fixture
async def sweeping(
    api: httpx2.AsyncClient, conversations: SessionFactory, notifications: SessionFactory
) -> AsyncIterator[Sweeper]:
    """A sweeper that reads the feed of the conversations API."""
    transport = api._transport  # noqa: SLF001 - the same application; the sweeper needs other headers
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://chats.test", headers={"Authorization": f"Bearer {FEED_SECRET}"}
    ) as feed:
        yield Sweeper(conversations, notifications, feed)


async def empty_conversations(engine: AsyncEngine) -> None:
    """Reset the conversations database to its state after the migrations."""
    await _empty(
        engine,
        ConversationsBase,
        "update feed set head = 0, incarnation = null, by_reference = true",
        "update search_progress set position = 0, fill_before = null, filled = 0",
        "update report_progress set position = 0, fill_before = null, filled = 0, exact_since = null",
        "update webhook_progress set position = 0, holder = null, held_until = null",
        "update notifications_cursor set position = 0, epoch = null, types = '{}', list_after = null,"
        " list_reason = null, caught_up_at = clock_timestamp()",
        "delete from erasures",
    )


async def empty_notifications(engine: AsyncEngine) -> None:
    """Reset the notifications database to its state after the migrations."""
    await _empty(
        engine,
        NotificationsBase,
        "update feed_cursor set position = 0, head = 0, epoch = null, caught_up_at = null, rebuild_reason = null,"
        " rebuild_kind = null, rebuild_after = null, rebuilt_at = null, restored_to = null, restored_until = null",
        "update gate set paused_at = null, breaker_trips = 0, breaker_since = null, breaker_until = null,"
        " breaker_phase = null, breaker_host = null, breaker_code = null, breaker_reason = null,"
        " breaker_probe = null, proven_at = null, incarnation = null",
        "update feed set head = 0, incarnation = null",
    )


@pytest.fixture
async def vacuumed(postgres: Server) -> Callable[[str], Awaitable[None]]:
    """Return a function that vacuums and analyzes tables of notifications, which only their owner may do."""

    async def vacuum(tables: str) -> None:
        superuser = await asyncpg.connect(postgres.url("notifications"))
        await superuser.execute(f"vacuum analyze {tables}")
        await superuser.close()

    return vacuum


async def _empty(engine: AsyncEngine, base: type[Any], *more: str) -> None:
    kept = {
        "audit_entries",
        "feed",
        "search_progress",
        "report_progress",
        "feed_cursor",
        "notifications_cursor",
        "webhook_progress",
        "gate",
    }
    tables = [table.name for table in reversed(base.metadata.sorted_tables) if table.name not in kept]
    statements = (*(f"delete from {table}" for table in tables), *more)  # noqa: S608 - our own tables
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.execute("; ".join(statements))  # at once, in one transaction: most tests end with this
