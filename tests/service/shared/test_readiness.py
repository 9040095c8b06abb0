"""A process is ready when its database answers, accepts writes, and is migrated as far as the code needs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import httpx2
import pytest
from alembic.script import ScriptDirectory
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.cli import SERVICES
from deploy.local.postgres import Server
from services.conversations.app import create_app as create_conversations_app
from services.conversations.settings import ApiSettings as ConversationsSettings
from services.notifications.app import create_app as create_notifications_app
from services.notifications.settings import ApiSettings as NotificationsSettings
from shared.database.engine import create_engine
from shared.database.errors import NOT_MIGRATED, READ_ONLY, is_outage
from shared.database.migrations import migration_config, upgrade
from shared.database.readiness import database_fault, newest_version, wait_for_database
from shared.database.transactions import (
    ConnectionProvider,
    SessionFactory,
    connection_provider,
    create_sessions,
    driver_connection,
    request_transaction,
    transaction,
)
from shared.problems import Unavailable
from tests.helpers.waiting import eventually
from tests.service.conftest import SECRET, As
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.connected import client_of

RECOVERY = 5  # seconds within which the product writes again after its database accepts writes
SUBJECT = {"subject": "Where is my parcel?"}

# Two ways in which managed services stop writes to a full disk: for all sessions, and for new ones only.
HOW = {
    "every session": ("alter system set default_transaction_read_only = {}", "select pg_reload_conf()"),
    "new sessions": ("alter database conversations set default_transaction_read_only = {}",),
}


def make_app(service: str, url: str) -> FastAPI:
    if service == "conversations":
        return create_conversations_app(
            ConversationsSettings(conversations_database_url=url, auth_secret=[SECRET], redis_url=None)
        )
    return create_notifications_app(NotificationsSettings(notifications_database_url=url, auth_secret=[SECRET]))


@asynccontextmanager
async def running(service: str, url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Create an API with connections of its own, and yield a client."""
    app = make_app(service, url)
    async with client_of(app) as client:
        yield client
    await app.state.sessions.kw["bind"].dispose()


@asynccontextmanager
async def read_only(postgres: Server, how: str) -> AsyncIterator[None]:
    """Make the conversations database read-only while the context is open."""
    superuser = await asyncpg.connect(postgres.url())
    try:
        for statement in HOW[how]:
            await superuser.execute(statement.format("on"))
        yield
    finally:
        for statement in HOW[how]:
            await superuser.execute(statement.format("off"))
        await superuser.close()


async def not_ready(client: httpx2.AsyncClient) -> httpx2.Response | None:
    answer = await client.get("/readyz")
    return answer if answer.status_code == 503 else None


@pytest.mark.usefixtures("conversations")
@pytest.mark.parametrize("how", HOW)
async def test_a_read_only_database_is_an_outage_that_ends_with_it(
    postgres: Server, databases: dict[str, str], acting_as: As, how: str
) -> None:
    async with AsyncExitStack() as stack, AsyncExitStack() as meanwhile:
        if how == "new sessions":
            await meanwhile.enter_async_context(read_only(postgres, how))
        client = await stack.enter_async_context(running("conversations", databases["conversations"]))
        anna = Caller(client, "/api/v1", acting_as("anna"))
        if how == "every session":
            await anna.open()  # over a connection that still exists when writes stop
            await meanwhile.enter_async_context(read_only(postgres, how))
        assert (await eventually(lambda: not_ready(client), deadline=RECOVERY)).json()["reason"] == READ_ONLY
        for answer in await asyncio.gather(*(anna.call("POST", "/conversations", SUBJECT) for _ in range(30))):
            assert problem(answer) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0

        await meanwhile.aclose()
        await eventually(anna.open, deadline=RECOVERY)
        for _ in range(30):
            await anna.open()
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("way", ["session", "driver", "lent"])
async def test_all_connections_are_replaced_after_one_was_read_only(databases: dict[str, str], way: str) -> None:
    engine = create_engine(databases["conversations"], application="tests", pool_size=2)
    before = await both_backends(engine)
    with pytest.raises(Exception, match="read-only transaction"):
        await write_readonly(way, create_sessions(engine), connection_provider(engine))
    after = await both_backends(engine)
    await engine.dispose()
    assert not before & after


async def write_readonly(way: str, sessions: SessionFactory, acquire: ConnectionProvider) -> None:
    write = "update feed set head = head where false"
    if way == "lent":
        async with acquire() as driver, driver.transaction(readonly=True):
            await driver.execute(write)
    else:
        async with transaction(sessions) as session:
            await session.execute(text("set transaction read only"))
            if way == "session":
                await session.execute(text(write))
            else:
                await (await driver_connection(session)).execute(write)


async def both_backends(engine: AsyncEngine) -> set[int]:
    async with engine.connect() as one, engine.connect() as other:
        return {await connection.scalar(text("select pg_backend_pid()")) for connection in (one, other)}


@pytest.mark.parametrize("service", ["conversations", "notifications"])
async def test_a_process_is_ready_with_its_own_or_a_newer_version_of_the_database(
    databases: dict[str, str], owner_urls: dict[str, str], service: str
) -> None:
    newest = newest_version(SERVICES / service)
    older = f"{int(newest) - 1:04}"
    engine = create_engine(databases[service], application="tests")
    owner = await asyncpg.connect(owner_urls[service])
    try:
        async with running(service, databases[service]) as client:
            for version, ready in ((older, False), ("0000", False), ("9999", True), ("of a fork", True), ("", False)):
                await owner.execute("delete from alembic_version")
                if version:
                    await owner.execute("insert into alembic_version values ($1)", version)
                answer = await client.get("/readyz")
                assert answer.status_code == (200 if ready else 503), version
                assert ready or "run: chats migrate" in answer.json()["reason"]
                fault = await database_fault(engine, newest)
                assert fault is None if ready else NOT_MIGRATED in str(fault)
            waiting = asyncio.create_task(wait_for_database(engine, newest))
            await eventually(lambda: database_fault(engine, newest))
            assert not waiting.done()
            await owner.execute("insert into alembic_version values ($1)", newest)
            await asyncio.wait_for(waiting, RECOVERY)
    finally:
        await owner.execute("delete from alembic_version")
        await owner.execute("insert into alembic_version values ($1)", newest)
        await owner.close()
        await engine.dispose()


@pytest.mark.parametrize("service", ["conversations", "notifications"])
def test_a_version_is_the_number_at_the_start_of_a_migrations_name(service: str) -> None:
    scripts = ScriptDirectory.from_config(migration_config(SERVICES / service, ""))
    history = [script.revision for script in reversed(list(scripts.walk_revisions()))]
    assert history == sorted(history)
    assert newest_version(SERVICES / service) == scripts.get_current_head() == history[-1]


async def test_an_older_release_leaves_a_newer_database_unchanged(
    databases: dict[str, str], owner_urls: dict[str, str]
) -> None:
    name = "notifications"
    owner = await asyncpg.connect(owner_urls[name])
    await owner.execute("update alembic_version set version_num = '9999'")
    try:
        await asyncio.to_thread(upgrade, SERVICES / name, databases[name], owner_urls[name])
        assert await owner.fetchval("select version_num from alembic_version") == "9999"
    finally:
        await owner.execute("update alembic_version set version_num = $1", newest_version(SERVICES / name))
        await owner.close()


@pytest.mark.parametrize("statement", ["select * from not_yet", "select not_yet from users", "select not_yet(1)"])
async def test_a_request_before_the_migration_is_told_to_retry(conversations: SessionFactory, statement: str) -> None:
    with pytest.raises(Unavailable) as refused:
        async with request_transaction(conversations) as session:
            await session.execute(text(statement))
    assert is_outage(refused.value.__cause__), "so no event is parked for it"


async def test_a_request_during_a_migration_is_told_to_retry(
    databases: dict[str, str], owner_urls: dict[str, str]
) -> None:
    engine = create_engine(databases["conversations"], application="tests", pool_size=1)
    sessions = create_sessions(engine)
    owner = await asyncpg.connect(owner_urls["conversations"])
    await owner.execute("create table growing (id int); grant select on growing to conversations")
    try:
        async with transaction(sessions) as session:
            await session.execute(text("select * from growing"))
        await owner.execute("alter table growing add column more int")
        with pytest.raises(Unavailable):
            async with request_transaction(sessions) as session:
                await session.execute(text("select * from growing"))
        async with request_transaction(sessions) as session:
            await session.execute(text("select * from growing"))
    finally:
        await owner.execute("drop table growing")
        await owner.close()
        await engine.dispose()
