"""A running API with live streams, and the relay's part: numbering events and waking the hub."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from uuid import UUID

from sqlalchemy import insert

from services.conversations.event_log.position import decode_position, encode_position
from services.conversations.event_log.sequencer import has_unnumbered, number_events
from services.conversations.models import LoggedEvent
from services.conversations.realtime.hub import Hub
from services.conversations.settings import ApiSettings
from shared.database.transactions import SessionFactory, connection_provider, transaction, transaction_driver
from shared.event_log.reading import read_head
from shared.events import EventType
from tests.helpers.sse_client import Reader, reading
from tests.helpers.waiting import eventually
from tests.service.helpers.callers import Caller


class Live:
    """A running API, and the relay's part."""

    def __init__(self, settings: ApiSettings, port: int, hub: Hub, sessions: SessionFactory, epoch: UUID) -> None:
        self.settings = settings
        self.origin = f"http://127.0.0.1:{port}"
        self.hub = hub
        self.epoch = epoch
        self._sessions = sessions
        self._acquire = connection_provider(sessions.kw["bind"])

    async def number(self) -> None:
        """Number all committed events and wake the hub. Repeat, since another process may number at the same time."""
        while True:
            async with transaction(self._sessions) as session:
                await number_events(await transaction_driver(session))
            async with self._acquire() as connection:
                if not await has_unnumbered(connection):
                    break
        self.hub.wake()

    def reading(
        self, caller: Caller, *, after: str | None = None, last_id: str | None = None
    ) -> AbstractAsyncContextManager[Reader]:
        """Read a stream in the background."""
        return reading(self.origin, caller.headers, after=after, last_id=last_id)

    async def position(self) -> str:
        """Return the log's end as clients know it."""
        async with self._sessions() as session:
            return encode_position(*await read_head(session))

    def number_of(self, position: str | None) -> int:
        """Return the number in a position that a client received."""
        number = decode_position(position or "", self.epoch)
        assert number is not None
        return number

    @asynccontextmanager
    async def numbering(self) -> AsyncIterator[None]:
        """Number events continuously while the context is open."""

        async def work() -> None:
            while True:
                await self.number()
                await asyncio.sleep(0.01)

        task = asyncio.create_task(work())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])  # it may hold a lock on the log's head


async def until_received(reader: Reader, count: int = 1) -> None:
    """Wait until a client has received this many events of the log."""
    await eventually(lambda: len(reader.logged) >= count)


async def until_ended(*readers: Reader) -> None:
    """Wait until streams have ended."""
    await eventually(lambda: all(reader.ended for reader in readers))


async def log_updates(sessions: SessionFactory, user_id: str, conversation: str, count: int) -> None:
    """Log `count` changes of a conversation at once."""
    row = {
        "type": EventType.CONVERSATION_UPDATED,
        "user_id": user_id,
        "conversation_id": conversation,
        "payload": {"conversation_id": conversation},
    }
    async with transaction(sessions) as session:
        await session.execute(insert(LoggedEvent), [row] * count)
