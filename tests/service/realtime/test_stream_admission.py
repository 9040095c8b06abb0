"""Concurrent requests share statements and connections, but each gets only its own data."""

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
class Client:
    """A customer, and the requests that they repeat."""

    id: str
    caller: Caller
    conversation: str

    async def request(self, turn: int) -> str:
        """Read or write something; return the response."""
        thread = f"/conversations/{self.conversation}"
        if turn % 3 == 0:
            answer = await self.caller.call("POST", f"{thread}/messages", {"body": f"{self.id} {turn}"})
        else:
            path = ("/conversations", f"{thread}/messages", thread, "/conversations?limit=1")[turn % 4]
            answer = await self.caller.call("GET", path)
        assert answer.is_success, answer.text
        return str(answer.text)


@pytest.fixture
async def customers(live: Live, acting_as: As) -> AsyncIterator[list[Client]]:
    async with httpx2.AsyncClient(base_url=live.origin, timeout=30) as client:
        callers = {user_id: Caller(client, "/api/v1", acting_as(user_id, name=user_id)) for user_id in PEOPLE}
        opened = await asyncio.gather(
            *(caller.open(subject=user_id, body=user_id) for user_id, caller in callers.items())
        )
        yield [
            Client(user_id, callers[user_id], conversation["id"])
            for user_id, conversation in zip(PEOPLE, opened, strict=True)
        ]


async def test_all_clients_get_their_own_data_even_while_others_disconnect(customers: list[Client]) -> None:
    async def ask(client: Client, offset: int) -> set[str]:
        responses = ""
        for turn in range(offset, offset + 12):
            responses += await client.request(turn)
        return set(re.findall(r"canary-\d\d", responses))

    async def hang_up(client: Client, offset: int) -> None:
        for turn in range(offset, offset + 12):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.002 * (turn % 5)):  # at any point of the request
                    await client.request(turn)

    answers, *_ = await asyncio.gather(
        asyncio.gather(*(ask(client, number) for number, client in enumerate(customers))),
        *(hang_up(client, number) for number, client in enumerate(customers)),
    )
    assert answers == [{client.id} for client in customers]
