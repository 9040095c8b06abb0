"""Clients that come and go at any time, while everybody writes: each hears what the log tells, in its order, once."""

import asyncio
import random

import pytest
from sqlalchemy import select

from services.conversations.models import LoggedEvent
from shared.database import SessionFactory
from tests.helpers.waiting import eventually
from tests.service.helpers.callers import Caller
from tests.service.helpers.live_api import Live

Heard = list[tuple[int, str]]


class PageContext:
    """A client that leaves at any moment and comes back with what it heard last."""

    def __init__(self, live: Live, caller: Caller, start: str, chance: random.Random) -> None:
        self.heard: Heard = []
        self._live = live
        self._caller = caller
        self._last = start
        self._chance = chance

    async def come_and_go(self, written: asyncio.Event) -> None:
        while not written.is_set():
            await self.visit(0, self._chance.random() * 0.1)

    async def visit(self, until: int, seconds: float = 0) -> None:
        """Stay for a time, and until so much was heard."""
        async with self._live.reading(self._caller, last_id=self._last) as reader:
            await asyncio.sleep(seconds)
            await eventually(lambda: self._live.number_of(reader.last_id or self._last) >= until)
        assert "reset" not in reader.names
        self.heard += [(self._live.number_of(event.id), event.event) for event in reader.logged]
        self._last = reader.last_id or self._last


async def write(chance: random.Random, customers: list[Caller], admin: Caller) -> None:
    """Open, post, answer, read, settle, close and delete, at random."""
    talks: list[tuple[Caller, str]] = []
    for _ in range(60):
        step = chance.choice(["open", "post", "post", "reply", "read", "settle", "delete"]) if talks else "open"
        customer, talk = chance.choice(talks) if talks else (customers[0], "")
        if step == "open":
            opened = chance.choice(customers)
            talks.append((opened, (await opened.open(body="Hello?"))["id"]))
        elif step == "post":
            await customer.post(talk)
        elif step == "reply":
            await admin.post(talk)
        elif step == "read":
            await chance.choice([customer, admin]).call("POST", f"/conversations/{talk}/read", {"up_to": 99})
        else:
            await admin.edit(talk, status="CLOSED")
            if step == "delete":
                await admin.call("DELETE", f"/conversations/{talk}")
                talks.remove((customer, talk))


def agrees(heard: Heard, log: list[LoggedEvent]) -> bool:
    """Tell whether a client heard the log in order, once; of what was deleted it may have heard or not."""
    erased = {(row.position, row.type) for row in log if row.payload is None}
    event = [(row.position, row.type) for row in log if row.payload is not None]
    return heard == sorted(set(heard)) and [event for event in heard if event not in erased] == event


@pytest.mark.parametrize("seed", range(4))
async def test_whoever_comes_and_goes_hears_the_log_in_its_order_and_nothing_twice(
    live: Live, anna: Caller, ben: Caller, sam: Caller, conversations: SessionFactory, seed: int
) -> None:
    start = await live.position()
    readers = {"anna": anna, "ben": ben, "sam": sam, "sam again": sam}
    visitors = {
        name: PageContext(live, caller, start, random.Random(f"{seed} {name}")) for name, caller in readers.items()
    }
    written = asyncio.Event()

    async def written_once() -> None:
        await write(random.Random(seed), [anna, ben], sam)
        written.set()

    async with live.numbering(), asyncio.TaskGroup() as group:
        group.create_task(written_once())
        for visitor in visitors.values():
            group.create_task(visitor.come_and_go(written))
    await live.number()
    async with conversations() as session:
        log = list(await session.scalars(select(LoggedEvent).order_by(LoggedEvent.position)))
    for name, visitor in visitors.items():
        own = [row for row in log if name.startswith("sam") or row.user_id == name]
        await visitor.visit(max((row.position or 0 for row in own), default=0))
        assert agrees(visitor.heard, own), name
