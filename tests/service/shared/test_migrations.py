"""What every run of the migrations does, also when there is nothing to migrate."""

import asyncio

import asyncpg
import pytest

from deploy.cli import SERVICES
from deploy.local.postgres import Server
from shared.migrations import upgrade

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
