"""Hints that the log has grown, from the relay to whoever follows it live, by Redis pub/sub.

A hint may be lost at any time and costs nothing then: who follows the log looks at it every second anyway.
"""

import asyncio
from collections.abc import Callable

import structlog
from redis.asyncio import Redis

from services.conversations.rate_limits.failopen_redis import connect

CHANNEL = "chats:log"
TIMEOUT = 1.0  # seconds to wait for an answer, and between tries
SILENCE = 10.0  # seconds without a hint, after which the other end is asked whether it is still there

log = structlog.get_logger()


class LogNotifier:
    """Tells of the log's newest position; while that takes long, of the newest only."""

    def __init__(self) -> None:
        self._newest: asyncio.Queue[int] = asyncio.Queue(1)

    def notify(self, position: int) -> None:
        """Take a position to tell of; never waits."""
        if self._newest.full():
            self._newest.get_nowait()
        self._newest.put_nowait(position)

    async def run(self, url: str) -> None:
        """Publish until cancelled. A Redis that is away or does not answer costs hints, nothing else."""
        working = True
        async with _connect(url) as redis:
            while True:
                position = await self._newest.get()
                try:
                    async with asyncio.timeout(TIMEOUT):
                        await redis.publish(CHANNEL, position)
                except Exception as error:  # noqa: BLE001 - redis-py raises more than its own kind; none may end this
                    if working:
                        log.warning("live streams get no hints, they look every second", error=_describe(error))
                    working = False
                    await asyncio.sleep(TIMEOUT)
                else:
                    working = True


async def listen(url: str, heard: Callable[[], None]) -> None:
    """Call `heard` at every hint, until cancelled; subscribes anew when the connection was lost."""
    working = True
    while True:
        try:
            async with _connect(url) as redis, redis.pubsub() as subscription:
                async with asyncio.timeout(TIMEOUT):
                    await subscription.subscribe(CHANNEL)
                asked = False
                while (message := await subscription.get_message(timeout=SILENCE)) or not asked:
                    if asked := message is None:
                        async with asyncio.timeout(TIMEOUT):
                            await subscription.ping()
                    else:
                        working = True
                        heard()
        except Exception as error:  # noqa: BLE001 - as above
            if working:
                log.warning("no hints of news in the log, looking every second", error=_describe(error))
            working = False
        await asyncio.sleep(TIMEOUT)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _connect(url: str) -> Redis:
    # Whoever asks sets the time: redis-py does so by `wait_for`, which in Python 3.11 can lose a cancellation.
    return connect(url, socket_timeout=None, socket_connect_timeout=TIMEOUT)
