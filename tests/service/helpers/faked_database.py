"""A service's database with a clock that tests set, and an inbox with events that cannot be handled.

The product is not patched: its connections find a `clock_timestamp()` before PostgreSQL's own on their search path,
and a trigger refuses to mark a poisoned event as handled.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_CLOCK = """
create schema fake;
create table fake.clock as select now() as moment;
create function fake.clock_timestamp() returns timestamptz language sql stable as 'select moment from fake.clock';
create table fake.poison (event_id uuid);
create function fake.refuse() returns trigger language plpgsql as $$ begin
    if exists (select from fake.poison where event_id = new.event_id) then
        raise exception 'poisoned';
    end if;
    return new;
end $$;
"""
_POISON = """
create trigger refuse_poisoned before insert or update on inbox
for each row when (new.handled_at is not null) execute function fake.refuse()
"""


@dataclass(frozen=True)
class FakedDatabase:
    """The product's engine, and a separate connection for the test."""

    engine: AsyncEngine
    connection: "asyncpg.Connection[Any]"

    async def set_clock(self, moment: datetime) -> None:
        await self.connection.execute("update fake.clock set moment = $1", moment)

    async def poison(self, event: UUID) -> None:
        """Make every attempt to handle the event fail from now on."""
        await self.connection.execute("insert into fake.poison values ($1)", event)

    async def heal(self) -> None:
        await self.connection.execute("delete from fake.poison")


@asynccontextmanager
async def faked_database(url: str, *, inbox: bool = False) -> AsyncIterator[FakedDatabase]:
    """Connect to a database with a fake clock, which is removed at the end."""
    engine = create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"),
        connect_args={"server_settings": {"search_path": "fake, pg_catalog, public"}},
    )
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_CLOCK)
        if inbox:
            await connection.execute(_POISON)
        yield FakedDatabase(engine, connection)
    finally:
        await engine.dispose()
        await connection.execute("drop schema if exists fake cascade")
        await connection.close()
