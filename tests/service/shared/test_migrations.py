"""What every run of the migrations does, also when there is nothing to migrate."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event

from deploy.cli import SERVICES
from deploy.local.postgres import Server
from shared.database import migrations
from shared.database.migrations import migration_config, upgrade
from tests.helpers.waiting import eventually

BROKEN = """
create index spoiled on messages (id);
create index "Spoiled too_ccnew1" on messages (id);
update pg_index set indisvalid = false
where indexrelid = any(array['spoiled', '"Spoiled too_ccnew1"']::regclass[])
"""
INDEXES = (
    "select relname, indisvalid from pg_index join pg_class on pg_class.oid = indexrelid where relname ilike 'spoiled%'"
)


@pytest.mark.parametrize("blocked", [False, True])
async def test_an_index_whose_build_was_interrupted_is_rebuilt_and_its_unfinished_copies_are_removed(
    postgres: Server, databases: dict[str, str], owner_urls: dict[str, str], *, blocked: bool
) -> None:
    superuser, writer = (
        await asyncpg.connect(postgres.url("conversations")),
        await asyncpg.connect(postgres.url("conversations")),
    )
    await superuser.execute(BROKEN)
    for name in ("spoiled", '"Spoiled too_ccnew1"'):
        await superuser.execute(f"alter index {name} owner to conversations_owner")
    try:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute("delete from messages where false")
        migrating = asyncio.create_task(
            asyncio.to_thread(
                upgrade, SERVICES / "conversations", databases["conversations"], owner_urls["conversations"]
            )
        )
        if blocked:  # an older transaction holds it up, and it holds up nobody
            await asyncio.sleep(0.5)
            await superuser.execute("delete from messages where false")
            assert not migrating.done()
        await transaction.rollback()
        await migrating
        assert [tuple(row) for row in await superuser.fetch(INDEXES)] == [("spoiled", True)]
    finally:
        await superuser.execute("drop index if exists spoiled")
        await superuser.close()
        await writer.close()


async def test_an_index_that_cannot_be_rebuilt_stops_nothing(
    postgres: Server, databases: dict[str, str], owner_urls: dict[str, str]
) -> None:
    superuser = await asyncpg.connect(postgres.url("conversations"))
    try:
        await superuser.execute(
            "create table doubled as select 1 as value from generate_series(1, 2);"
            "alter table doubled owner to conversations_owner"
        )
        with pytest.raises(asyncpg.UniqueViolationError):
            await superuser.execute("create unique index concurrently spoiled on doubled (value)")
        await superuser.execute(
            "create index spoiled_later on doubled (value);"
            "update pg_index set indisvalid = false where indexrelid = 'spoiled_later'::regclass"
        )
        await asyncio.to_thread(
            upgrade, SERVICES / "conversations", databases["conversations"], owner_urls["conversations"]
        )
        indexes = {tuple(row) for row in await superuser.fetch(INDEXES)}
        assert indexes >= {("spoiled", False), ("spoiled_later", True)}
    finally:
        await superuser.execute("drop table if exists doubled")
        await superuser.close()


@pytest.fixture
async def empty(postgres: Server) -> AsyncIterator[str]:
    """A database without tables."""
    superuser = await asyncpg.connect(postgres.url())
    await superuser.execute("create database empty")
    yield postgres.url("empty")
    await superuser.execute("drop database empty with (force)")
    await superuser.close()


@pytest.mark.parametrize("service", ["conversations", "notifications"])
def test_a_migration_that_ends_before_it_is_recorded_can_be_run_again(empty: str, service: str) -> None:
    config = migration_config(SERVICES / service, empty)
    revisions = [
        script for script in ScriptDirectory.from_config(config).walk_revisions() if _commits_early(script.path)
    ]
    assert revisions

    for revision in reversed(revisions):
        command.upgrade(config, str(revision.down_revision))
        with _dying_before("UPDATE alembic_version"), pytest.raises(RuntimeError, match="killed"):
            command.upgrade(config, revision.revision)
        command.upgrade(config, revision.revision)


def _commits_early(migration: str) -> bool:
    return "autocommit_block" in Path(migration).read_text()


@contextmanager
def _dying_before(statement: str) -> Iterator[None]:
    def die(_: Any, __: Any, text: str, *___: Any) -> None:
        if text.startswith(statement):
            raise RuntimeError("killed")

    event.listen(Engine, "before_cursor_execute", die)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", die)


async def test_a_migration_waits_for_tables_in_use_and_ends_no_other_transaction(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction locks what the migration changes first and last, one after the other: a deadlock without care."""
    monkeypatch.setattr(migrations, "_PAUSE", 0.1)
    config = migration_config(SERVICES / "conversations", empty)
    await asyncio.to_thread(command.upgrade, config, "0014")
    writer = await asyncpg.connect(empty)
    async with writer.transaction():
        await writer.execute("lock table events in row exclusive mode")
        migrating = asyncio.create_task(asyncio.to_thread(command.upgrade, config, "0015"))
        await eventually(lambda: writer.fetchval("select exists (select from pg_locks where not granted)"))
        await asyncio.sleep(1.2)  # PostgreSQL looks for a deadlock of the migration after a second, then of the writer
        await writer.execute("lock table conversations in row exclusive mode")
        assert not migrating.done()
    await migrating
    assert await writer.fetchval("select version_num from alembic_version") == "0015"
    await writer.close()
