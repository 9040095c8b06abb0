"""Clients that reconnect at any time while others write receive the log in order, each event once."""

import asyncio
import os
import random

import pytest
from sqlalchemy import select

from services.conversations.models import LoggedEvent
from shared.database.transactions import SessionFactory
from tests.helpers.waiting import eventually
from tests.service.helpers.callers import Caller
from tests.service.helpers.live_api import Live

Received = list[tuple[int, str]]


class Visitor:
    """A client that disconnects at any moment and resumes after the last event that it received."""

    def __init__(self, live: Live, caller: Caller, start: str, chance: random.Random) -> None:
        self.received: Received = []
        self._live = live
        self._caller = caller
        self._last = start
        self._chance = chance

    async def reconnect_repeatedly(self, written: asyncio.Event) -> None:
        while not written.is_set():
            await self.connect(0, self._chance.random() * 0.1)

    async def connect(self, until: int, seconds: float = 0) -> None:
        """Stay connected for a time, and until a position was received."""
        async with self._live.reading(self._caller, last_id=self._last) as reader:
            await asyncio.sleep(seconds)
            await eventually(lambda: self._live.number_of(reader.last_id or self._last) >= until)
        assert "reset" not in reader.names
        self.received += [(self._live.number_of(event.id), event.event) for event in reader.logged]
        self._last = reader.last_id or self._last


async def write(chance: random.Random, customers: list[Caller], admin: Caller) -> None:
    """Open, post, reply, read, close and delete, at random."""
    conversations: list[tuple[Caller, str]] = []
    for _ in range(60):
        step = chance.choice(["open", "post", "post", "reply", "read", "close", "delete"]) if conversations else "open"
        customer, conversation = chance.choice(conversations) if conversations else (customers[0], "")
        if step == "open":
            opened = chance.choice(customers)
            conversations.append((opened, (await opened.open(body="Hello?"))["id"]))
        elif step == "post":
            await customer.post(conversation)
        elif step == "reply":
            await admin.post(conversation)
        elif step == "read":
            await chance.choice([customer, admin]).call("POST", f"/conversations/{conversation}/read", {"up_to": 99})
        else:
            await admin.edit(conversation, status="CLOSED")
            if step == "delete":
                await admin.call("DELETE", f"/conversations/{conversation}")
                conversations.remove((customer, conversation))


def agrees(received: Received, log: list[LoggedEvent]) -> bool:
    """Return whether a client received the log in order, once; erased events are optional."""
    erased = {(row.position, row.type) for row in log if row.payload is None}
    kept = [(row.position, row.type) for row in log if row.payload is not None]
    return received == sorted(set(received)) and [event for event in received if event not in erased] == kept


@pytest.mark.parametrize("seed", range(8 if "EVERY_CASE" in os.environ else 1))
async def test_reconnecting_clients_receive_the_log_in_order_and_nothing_twice(
    live: Live, anna: Caller, ben: Caller, sam: Caller, conversations: SessionFactory, seed: int
) -> None:
    start = await live.position()
    readers = {"anna": anna, "ben": ben, "sam": sam, "sam again": sam}
    visitors = {name: Visitor(live, caller, start, random.Random(f"{seed} {name}")) for name, caller in readers.items()}
    written = asyncio.Event()

    async def written_once() -> None:
        await write(random.Random(seed), [anna, ben], sam)
        written.set()

    async with live.numbering(), asyncio.TaskGroup() as group:
        group.create_task(written_once())
        for visitor in visitors.values():
            group.create_task(visitor.reconnect_repeatedly(written))
    await live.number()
    async with conversations() as session:
        log = list(await session.scalars(select(LoggedEvent).order_by(LoggedEvent.position)))
    for name, visitor in visitors.items():
        own = [row for row in log if name.startswith("sam") or row.user_id == name]
        await visitor.connect(max((row.position or 0 for row in own), default=0))
        assert agrees(visitor.received, own), name
