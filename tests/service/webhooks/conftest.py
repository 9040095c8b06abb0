"""Webhooks of a store whose endpoint is a server on loopback, and the dispatcher without its pauses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.conversations.event_log.sequencer import number_events
from services.conversations.rules import WebhookType
from services.conversations.webhooks.dispatcher import Dispatcher
from services.conversations.webhooks.sending import Sender
from shared.database.transactions import SessionFactory, connection_provider, transaction, transaction_driver
from tests.helpers.waiting import eventually
from tests.helpers.webhook_receiver import Receiver, webhook_receiver
from tests.service.helpers.callers import Caller

PRIVATE = frozenset({"127.0.0.1", "localhost"})
SCHEDULE = (0, 0.05, 0.1)
ALL_TYPES = [each.value for each in WebhookType]


@dataclass
class Hooks:
    """The store's webhooks, and what sends them."""

    shop: Caller
    sessions: SessionFactory
    engine: AsyncEngine
    receiver: Receiver

    async def create(self, types: Sequence[str] = ALL_TYPES, **fields: Any) -> dict[str, Any]:
        """Create a webhook for the receiver; return it with its secret."""
        answer = await self.shop.call("POST", "/webhooks", {"url": self.receiver.url, "types": list(types)} | fields)
        assert answer.status_code == 201, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def number(self) -> None:
        """Give all events their positions, as the relay does."""
        async with transaction(self.sessions) as session:
            await number_events(await transaction_driver(session))

    @asynccontextmanager
    async def dispatching(self, schedule: Sequence[float] = SCHEDULE, *, seconds: float = 10) -> AsyncIterator[None]:
        """Send webhooks while the context is open."""
        await self.number()
        stop, sender = asyncio.Event(), Sender(PRIVATE, timeout=seconds)
        dispatcher = Dispatcher(self.sessions, connection_provider(self.engine), sender, schedule)
        task = asyncio.create_task(dispatcher.run(stop))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(20):
                await task
            await sender.close()

    async def run_until(
        self, condition: Callable[[], bool | Awaitable[bool]], schedule: Sequence[float] = SCHEDULE
    ) -> None:
        """Send webhooks until something is so."""
        async with self.dispatching(schedule):
            await eventually(condition)

    async def settle(self, schedule: Sequence[float] = SCHEDULE) -> None:
        """Send webhooks until nothing is pending."""
        await self.number()

        async def is_settled() -> bool:
            if await self.rows(
                "select 1 from webhook_progress, feed, webhooks where position < head and disabled_at is null limit 1"
            ):
                return False
            return not await self.rows("select 1 from webhook_deliveries where state = 'pending' limit 1")

        await self.run_until(is_settled, schedule)

    async def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        async with self.sessions() as session:
            return [tuple(row) for row in await session.execute(text(query), values)]

    async def execute(self, statement: str, **values: Any) -> None:
        async with transaction(self.sessions) as session:
            await session.execute(text(statement), values)


@pytest.fixture
async def hooks(shop: Caller, conversations: SessionFactory, conversations_engine: AsyncEngine) -> AsyncIterator[Hooks]:
    async with webhook_receiver() as receiver:
        yield Hooks(shop, conversations, conversations_engine, receiver)
