"""What requests of the same moment share, a statement, a connection, is answered to each with what is their own."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import httpx2
import pytest

from tests.service.conftest import As
from tests.service.helpers.callers import Caller
from tests.service.helpers.live_api import Live

PEOPLE = [f"canary-{number:02}" for number in range(16)]


@dataclass(frozen=True)
class Customer:
    """Somebody, and what they ask for again and again."""

    id: str
    caller: Caller
    conversation: str

    async def ask(self, turn: int) -> str:
        """Read or write something; return the answer."""
        thread = f"/conversations/{self.conversation}"
        if turn % 3 == 0:
            answer = await self.caller.call("POST", f"{thread}/messages", {"body": f"{self.id} {turn}"})
        else:
            path = ("/conversations", f"{thread}/messages", thread, "/conversations?limit=1")[turn % 4]
            answer = await self.caller.call("GET", path)
        assert answer.is_success, answer.text
        return str(answer.text)


@pytest.fixture
async def customers(live: Live, acting_as: As) -> AsyncIterator[list[Customer]]:
    async with httpx2.AsyncClient(base_url=live.origin, timeout=30) as client:
        callers = {who: Caller(client, "/api/v1", acting_as(who, name=who)) for who in PEOPLE}
        opened = await asyncio.gather(*(caller.open(subject=who, body=who) for who, caller in callers.items()))
        yield [Customer(who, callers[who], one["id"]) for who, one in zip(PEOPLE, opened, strict=True)]


async def test_everybody_gets_their_own_also_while_others_hang_up(customers: list[Customer]) -> None:
    async def ask(one: Customer, offset: int) -> set[str]:
        event = ""
        for turn in range(offset, offset + 12):
            event += await one.ask(turn)
        return set(re.findall(r"canary-\d\d", event))

    async def hang_up(one: Customer, offset: int) -> None:
        for turn in range(offset, offset + 12):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.002 * (turn % 5)):  # anywhere on the request's way
                    await one.ask(turn)

    answers, *_ = await asyncio.gather(
        asyncio.gather(*(ask(one, number) for number, one in enumerate(customers))),
        *(hang_up(one, number) for number, one in enumerate(customers)),
    )
    assert answers == [{one.id} for one in customers]
