"""Who is viewing and writing, as events of the admins' streams: of this process, and by Redis pub/sub of the others.

Each is a hint that may be lost: browsers report again, and forget what was not reported for some seconds.
"""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from services.conversations.rate_limits.failopen_redis import FailopenRedis
from services.conversations.realtime.connection import SseEvent
from services.conversations.realtime.log_notify import Listener

CHANNEL: Final = "chats:presence"
PRESENCE: Final = "presence"
QUEUE: Final = 100  # changes that wait for Redis; further ones are lost

log = structlog.get_logger()


class PresentAdmin(BaseModel):
    """An admin. Without a name, `name` is the id."""

    id: str
    name: str


class PresenceChange(BaseModel):
    """What an admin does with a conversation: `viewing`, `writing` a reply, or neither after leaving it.

    `writing` is null if the admin's report did not say: two reports may arrive in the wrong order.
    """

    model_config = ConfigDict(extra="forbid")

    conversation_id: UUID
    admin: PresentAdmin
    viewing: bool
    writing: bool | None


class PresenceFeed:
    """Sends changes to the admins' streams of all processes. `origin` is the random name of this one."""

    def __init__(self, push: Callable[[SseEvent], None], origin: str) -> None:
        self._push = push
        self._origin = origin.encode()
        self._queue: asyncio.Queue[str] = asyncio.Queue(QUEUE)

    def send(self, change: PresenceChange) -> None:
        """Send a change; never waits."""
        data = change.model_dump_json()
        self._push(SseEvent(PRESENCE, data))
        if not self._queue.full():  # it stays full without Redis
            self._queue.put_nowait(data)

    async def run(self, redis: FailopenRedis, redis_url: str) -> None:
        """Exchange changes with the other processes until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish(redis))
            group.create_task(Listener(CHANNEL, lambda: None, self._receive).run(redis_url))

    async def _publish(self, redis: FailopenRedis) -> None:
        while True:
            message = self._origin + b" " + (await self._queue.get()).encode()
            await redis.call(lambda message=message: redis.client.publish(CHANNEL, message))  # type: ignore[misc]

    def _receive(self, message: bytes) -> None:
        origin, _, data = message.partition(b" ")
        if origin == self._origin:
            return
        try:
            change = PresenceChange.model_validate_json(data)
        except ValidationError as error:  # from another release
            log.debug("unknown presence ignored", errors=error.error_count())
            return
        self._push(SseEvent(PRESENCE, change.model_dump_json()))
