"""The documents of search are not in PostgreSQL's write-ahead log, and are made again after a crash."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import httpx2
import pytest

from deploy.cli import SERVICES
from deploy.local.postgres import KILLABLE, OWNER, Server, create_databases, running, throwaway_files
from services.conversations.search import indexer
from services.conversations.search.indexer import index_round, read_state
from shared.database.engine import create_engine
from shared.database.migrations import upgrade
from shared.database.transactions import SessionFactory, create_sessions, transaction
from tests.service.conftest import As, running_api
from tests.service.helpers.callers import Caller
from tests.service.search.test_finding import catch_up_with_log, found
from tests.service.search.test_indexer import change, documents, number, read


class Store(NamedTuple):
    """An API on a running PostgreSQL of its own, with a customer and an admin."""

    sessions: SessionFactory
    anna: Caller
    sam: Caller


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """The files of a PostgreSQL with a migrated database."""
    async with throwaway_files(tmp_path / "postgres") as server:
        async with running(server, KILLABLE):
            await create_databases(server, {f"conversations{suffix}": "test" for suffix in ("", OWNER)})
            urls = [server.url("conversations", f"conversations{suffix}", "test") for suffix in ("", OWNER)]
            await asyncio.to_thread(upgrade, SERVICES / "conversations", *urls)
        yield server


@asynccontextmanager
async def open_store(server: Server, acting_as: As) -> AsyncIterator[Store]:
    """Run PostgreSQL and an API. At the end PostgreSQL is stopped at once, which is a crash."""
    url = server.url("conversations", "conversations", "test")
    async with running(server, KILLABLE | {"autovacuum": "off"}):
        engine = create_engine(url, application="tests", pool_size=5)
        sessions = create_sessions(engine)
        async with (
            running_api(sessions, url) as api,
            httpx2.AsyncClient(base_url=api.origin, timeout=30) as client,
        ):
            anna = Caller(client, "/api/v1", acting_as("anna", name="Anna"))
            yield Store(sessions, anna, Caller(client, "/api/v1/admin", acting_as("sam", "admin", name="Sam")))
        await engine.dispose()


async def test_indexing_a_message_costs_less_than_a_tenth_of_the_log_of_posting_it(
    server: Server, acting_as: As
) -> None:
    async with open_store(server, acting_as) as (sessions, anna, _):
        conversations = [(await anna.open(body=words(n)))["id"] for n in range(3)]
        await catch_up_with_log(sessions)
        before = await end_of_log(sessions)
        for n in range(3, 13):
            for conversation in conversations:
                await anna.post(conversation, words(n))
        await number(sessions)
        posted = await end_of_log(sessions)
        await catch_up_with_log(sessions)
        assert (await end_of_log(sessions)) - posted < (posted - before) / 10


async def test_after_a_crash_of_postgresql_all_conversations_are_indexed_again(server: Server, acting_as: As) -> None:
    async with open_store(server, acting_as) as (sessions, anna, sam):
        old = await anna.open(subject="Old", body="hello")
        await sam.call("POST", f"/conversations/{old['id']}/notes", {"body": "voucher"})
        await catch_up_with_log(sessions)
        await change(sessions, "delete from events")  # purged long ago
        await anna.open(subject="New", body="hello")
        await catch_up_with_log(sessions)
        assert await found(sam, "hello") == ["New", "Old"]
    async with open_store(server, acting_as) as (sessions, anna, sam):
        assert await documents(sessions) == []
        assert await found(sam, "hello") == ["New"]  # of the newest events
        await anna.post(old["id"], "again")
        await number(sessions)
        assert await found(sam, "again") == ["Old"]
        async with transaction(sessions) as session:
            assert (await read_state(session)).is_filling
        await catch_up_with_log(sessions)
        assert await found(sam, "hello") == ["Old", "New"]
        assert (await found(sam, "voucher"), await found(anna, "voucher")) == (["Old"], [])
        async with transaction(sessions) as session:
            state = await read_state(session)
        assert (state.is_filling, state.filled, state.left, state.lag) == (False, 2, 0, 0)


async def test_conversations_of_the_latest_events_are_indexed_first(
    anna: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "LATEST", 1)
    opened = [await anna.open(body="hello") for _ in range(3)]
    await anna.post(opened[0]["id"], "again")
    await catch_up_with_log(conversations)
    await change(conversations, "delete from conversation_search")
    await change(conversations, "delete from search_progress")
    assert await index_round(conversations, settle=-1) == 1
    [(indexed,)] = await read(conversations, "select conversation_id from conversation_search")
    assert indexed == UUID(opened[0]["id"])
    assert await index_round(conversations, settle=-1) == 3


async def end_of_log(sessions: SessionFactory) -> int:
    """Return the number of bytes in the log so far."""
    [(end,)] = await read(sessions, "select (pg_current_wal_insert_lsn() - '0/0')::bigint")
    return int(end)


def words(start: int) -> str:
    """Return a text of 25 words that no other start has."""
    return " ".join(f"word{start}x{n}" for n in range(25))
