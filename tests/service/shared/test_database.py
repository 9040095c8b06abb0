"""A database that is down or gives up: requests are told to retry, processes report why they wait."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import asyncpg
import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from bench.chaos.proxy import Disturbance, Link, Trouble, proxied
from deploy.local.ports import free_ports
from deploy.local.postgres import Server
from services.conversations.app import create_app
from services.conversations.settings import ApiSettings
from shared.database.engine import COMMAND_TIMEOUT, create_engine
from shared.database.errors import DATABASE_ERRORS, is_outage
from shared.database.readiness import database_fault
from shared.database.transactions import (
    SessionFactory,
    connection_provider,
    create_sessions,
    driver_connection,
    request_transaction,
    transaction,
    transaction_driver,
)
from shared.problems import Unavailable
from tests.service.conftest import SECRET
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.connected import client_of

HOW_TO_FAIL = {
    "terminated": "select pg_terminate_backend(pg_backend_pid())",
    "deadlock": "do $$ begin raise exception using errcode = '40P01'; end $$",
    "no room": "do $$ begin raise exception using errcode = '53100'; end $$",
    "frozen": "do $$ begin raise exception using errcode = '25P03'; end $$",
    "shutting down": "do $$ begin raise exception using errcode = '57P01'; end $$",
}


@pytest.mark.parametrize("statement", HOW_TO_FAIL.values(), ids=HOW_TO_FAIL)
async def test_a_temporary_error_is_unavailable(conversations: SessionFactory, statement: str) -> None:
    with pytest.raises(Unavailable):
        async with request_transaction(conversations) as session:
            await session.execute(text(statement))


async def test_a_permanent_error_is_raised(conversations: SessionFactory) -> None:
    with pytest.raises(Exception, match="division by zero"):
        async with request_transaction(conversations) as session:
            await session.execute(text("select 1 / 0"))


async def test_a_connection_that_ends_during_login_is_unavailable(
    databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(**_: object) -> None:
        raise asyncpg.InternalClientError("the connection ended")

    monkeypatch.setattr("asyncpg.connect", connect)
    engine = create_engine(databases["conversations"], application="tests")
    with pytest.raises(Unavailable):
        async with request_transaction(create_sessions(engine)) as session:
            await session.execute(text("select 1"))
    await engine.dispose()


async def test_a_pool_without_a_free_connection_is_unavailable(
    databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.database.engine.POOL_TIMEOUT", 0.01)
    engine = create_engine(databases["conversations"], application="tests", pool_size=1)
    async with engine.connect():
        with pytest.raises(Unavailable):
            async with request_transaction(create_sessions(engine)) as session:
                await session.execute(text("select 1"))
    await engine.dispose()


@pytest.fixture
async def unreachable(databases: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an API whose database is not running."""
    (port,) = free_ports([0])
    url = make_url(databases["conversations"]).set(host="127.0.0.1", port=port, query={})
    app = create_app(
        ApiSettings(conversations_database_url=url.render_as_string(hide_password=False), auth_secret=[SECRET])
    )
    async with client_of(app) as client:
        yield client


async def test_without_a_database_every_call_is_told_to_retry(
    unreachable: httpx2.AsyncClient, anna: Caller, sam: Caller
) -> None:
    nowhere = "/conversations/01900000-0000-7000-8000-000000000000"
    for caller, method, path, body in (
        (anna, "GET", "/conversations", None),
        (anna, "POST", "/conversations", {"subject": "Hello"}),
        (anna, "POST", f"{nowhere}/messages", {"body": "Hello"}),
        (sam, "PATCH", nowhere, {"status": "CLOSED"}),
    ):
        answer = await Caller(unreachable, caller.prefix, caller.headers).call(method, path, body)
        assert problem(answer) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0


async def test_healthy_is_not_ready(unreachable: httpx2.AsyncClient, api: httpx2.AsyncClient) -> None:
    assert (await unreachable.get("/healthz")).status_code == 200
    answer = await unreachable.get("/readyz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "the database does not answer" in answer.json()["reason"]
    assert (await api.get("/healthz")).status_code == 200


async def test_each_fault_of_a_database_is_one_line(databases: dict[str, str]) -> None:
    url = make_url(databases["conversations"])
    for wrong in (url.set(password="wrong"), url.set(database="nothing"), url.set(username="nobody")):
        engine = create_engine(wrong.render_as_string(hide_password=False), application="tests")
        fault = await database_fault(engine, None)
        await engine.dispose()
        assert fault
        assert "\n" not in fault
        assert "wrong" not in fault


async def test_a_database_without_tables_says_how_to_create_them(postgres: Server) -> None:
    engine = create_engine(postgres.url("template1"), application="tests")
    assert await database_fault(engine, None) is None
    fault = await database_fault(engine, "0001")
    await engine.dispose()
    assert fault is not None
    assert "run: chats migrate" in fault


@pytest.mark.parametrize("trusted", [0.0, 60.0])
async def test_a_broken_connection_in_the_pool_is_replaced(
    databases: dict[str, str], conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch, trusted: float
) -> None:
    monkeypatch.setattr("shared.database.engine.TRUSTED_IDLE", trusted)
    engine = create_engine(databases["conversations"], application="tests", pool_size=1)
    async with engine.connect() as connection:
        pid = await connection.scalar(text("select pg_backend_pid()"))
    async with conversations() as session:
        assert await session.scalar(text("select pg_terminate_backend(:pid, 5000)"), {"pid": pid})

    async with engine.connect() as connection:
        assert await connection.scalar(text("select pg_backend_pid()")) != pid
    await engine.dispose()


async def test_a_transaction_that_cannot_begin_raises_the_drivers_error_and_costs_no_other_one(
    databases: dict[str, str], conversations: SessionFactory
) -> None:
    engine = create_engine(databases["conversations"], application="tests", pool_size=1)
    sessions = create_sessions(engine)
    async with sessions() as session:
        pid = (await driver_connection(session)).get_server_pid()
        async with conversations() as other:
            assert await other.scalar(text("select pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(DATABASE_ERRORS) as lost:
            await transaction_driver(session)
    assert is_outage(lost.value)
    async with transaction(sessions) as session:
        assert (await transaction_driver(session)).get_server_pid() != pid
    await engine.dispose()


async def test_a_frozen_transaction_loses_its_locks_before_waiting_transactions_time_out(
    databases: dict[str, str], conversations: SessionFactory
) -> None:
    engine = create_engine(databases["conversations"], application="tests", pool_size=1)
    async with engine.connect() as connection:
        bound = await connection.scalar(text("show idle_in_transaction_session_timeout"))
    await engine.dispose()
    assert 0 < int(str(bound).removesuffix("s")) < COMMAND_TIMEOUT

    lock = text("select pg_advisory_xact_lock(1)")
    bounds = {"idle_in_transaction_session_timeout": "200ms"}
    engine = create_engine(databases["conversations"], application="tests", bounds=bounds)
    async with create_sessions(engine)() as frozen:
        await frozen.execute(lock)
        async with transaction(conversations) as other:
            await other.execute(lock)
        with pytest.raises(DBAPIError) as lost:
            await frozen.execute(text("select 1"))
        assert is_outage(lost.value)
    await engine.dispose()


async def test_a_connection_that_the_network_dropped_is_given_up_and_replaced(databases: dict[str, str]) -> None:
    url = make_url(databases["conversations"])
    link = Link("test", url.port or 0, random.Random(1))
    async with proxied(link):
        through = url.set(port=link.port).render_as_string(hide_password=False)
        engine = create_engine(through, application="tests", pool_size=2, command_timeout=1)
        async with engine.connect() as connection:
            async with engine.connect() as other:
                pids = {await pooled.scalar(text("select pg_backend_pid()")) for pooled in (connection, other)}
            await connection.commit()
            link.strike(Disturbance(Trouble.BLACK_HOLE))
            link.forget()
            with pytest.raises(TimeoutError):
                await connection.scalar(text("select 1"))
        async with engine.connect() as connection, engine.connect() as other:  # the second one was not used meanwhile
            for pooled in (connection, other):
                assert await pooled.scalar(text("select pg_backend_pid()")) not in pids
        await engine.dispose()


async def test_a_dead_idle_connection_is_detected_faster_than_by_the_command_timeout(
    databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.database.engine.TRUSTED_IDLE", 0.0)
    monkeypatch.setattr("shared.database.engine.PING_TIMEOUT", 0.2)
    url = make_url(databases["conversations"])
    link = Link("test", url.port or 0, random.Random(1))
    async with proxied(link):
        engine = create_engine(
            url.set(port=link.port).render_as_string(hide_password=False), application="tests", pool_size=1
        )
        async with engine.connect() as connection:
            pid = await connection.scalar(text("select pg_backend_pid()"))
        link.strike(Disturbance(Trouble.BLACK_HOLE))
        link.forget()
        async with asyncio.timeout(COMMAND_TIMEOUT), engine.connect() as connection:
            assert await connection.scalar(text("select pg_backend_pid()")) != pid
        await engine.dispose()


async def test_a_connection_that_ends_in_the_middle_of_a_message_is_unavailable(
    conversations: SessionFactory,
) -> None:
    with pytest.raises(Unavailable):
        async with request_transaction(conversations):
            raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")


@pytest.mark.parametrize("reason", ["dropped", "cancelled"])
async def test_a_loan_that_fails_costs_no_other_request_an_error(databases: dict[str, str], reason: str) -> None:
    engine = create_engine(databases["conversations"], application="tests", pool_size=1)
    acquire = connection_provider(engine)
    async with acquire() as first:
        server_process = await first.fetchval("select pg_backend_pid()")
    async with acquire() as again:
        assert again is first  # on loan without a checkout
    if reason == "dropped":
        with pytest.raises(asyncpg.PostgresError):
            async with acquire() as connection:
                await connection.fetch("select pg_terminate_backend(pg_backend_pid())")
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), acquire() as connection:
                await connection.fetch("select pg_sleep(20)")
    async with acquire() as connection:
        now = await connection.fetchval("select pg_backend_pid()")
    assert (now == server_process) is (reason == "cancelled")
    await engine.dispose()


async def test_times_are_read_in_utc_whatever_the_server_prefers(databases: dict[str, str]) -> None:
    moments = [
        datetime(2, 1, 1, tzinfo=UTC),
        datetime(2026, 7, 1, 12, 0, 0, 120_000, tzinfo=timezone(timedelta(hours=2))),
        datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ]
    engine = create_engine(databases["conversations"], application="test", pool_size=1)
    async with connection_provider(engine)() as connection:
        await connection.execute("alter role current_user set timezone to 'Asia/Kolkata'")
        await connection.execute("alter role current_user set datestyle to 'German'")
    await engine.dispose()  # the next connection is a new one
    try:
        async with connection_provider(engine)() as connection:
            read = await connection.fetchval("select $1::timestamptz[] || $2::timestamptz", moments, None)
            one = await connection.fetchval("select $1::timestamptz", moments[1])
    finally:
        async with connection_provider(engine)() as connection:
            await connection.execute("alter role current_user reset timezone")
            await connection.execute("alter role current_user reset datestyle")
        await engine.dispose()
    assert [*moments, None, moments[1]] == [*read, one]
    assert {moment.tzinfo for moment in [*read, one] if moment is not None} == {UTC}
