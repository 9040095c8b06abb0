"""Notifications by Redis pub/sub: of appended events to the relay, and of a grown log from the relay to live streams.

A lost notification only costs time, because the relay and the live streams also poll.
"""

import asyncio
from collections.abc import Callable

import structlog
from redis.asyncio import Redis

from services.conversations.rate_limits.failopen_redis import connect

LOG_GROWN = "chats:log"  # to live streams, with the newest position
APPENDED = "chats:appended"  # to the relay
MIN_INTERVAL = 0.02  # minimum seconds between notifications, so that under load one stands for several
TIMEOUT = 1.0  # seconds to wait for an answer, and between attempts
SILENCE = 10.0  # seconds without a notification, after which the connection is checked with a ping

log = structlog.get_logger()


class Notifier:
    """Publishes the newest value to a channel, at once after a quiet time; of values in between only the newest."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._newest: asyncio.Queue[int] = asyncio.Queue(1)

    def notify(self, value: int = 0) -> None:
        """Queue a value for publishing; never waits."""
        if self._newest.full():
            self._newest.get_nowait()
        self._newest.put_nowait(value)

    async def run(self, url: str) -> None:
        """Publish until cancelled. While Redis is unavailable, notifications are lost."""
        working = True
        async with _connect(url) as redis:
            while True:
                value = await self._newest.get()
                try:
                    async with asyncio.timeout(TIMEOUT):
                        await redis.publish(self._channel, value)
                except Exception as error:  # noqa: BLE001 - redis-py raises more than its own errors; none may end this
                    if working:
                        log.warning("cannot notify, readers poll", channel=self._channel, error=_describe(error))
                    working = False
                    await asyncio.sleep(TIMEOUT)
                else:
                    working = True
                    await asyncio.sleep(MIN_INTERVAL)


class Listener:
    """Calls `notified` for every notification on a channel, and `received` with its content.

    `listening` says whether they arrive at present.
    """

    def __init__(
        self, channel: str, notified: Callable[[], None], received: Callable[[bytes], None] = lambda _: None
    ) -> None:
        self._channel = channel
        self._notified = notified
        self._received = received
        self.listening = False

    async def run(self, url: str) -> None:
        """Listen until cancelled. Resubscribes after a lost connection."""
        warned = False
        while True:
            try:
                async with _connect(url) as redis, redis.pubsub() as subscription:
                    async with asyncio.timeout(TIMEOUT):
                        await subscription.subscribe(self._channel)
                    pinged = False
                    while (message := await subscription.get_message(timeout=SILENCE)) or not pinged:
                        if pinged := message is None:
                            async with asyncio.timeout(TIMEOUT):
                                await subscription.ping()
                        else:
                            self.listening, warned = True, False
                            self._notified()
                            if message["type"] == "message":  # else it is the subscription's confirmation
                                self._received(message["data"])
            except Exception as error:  # noqa: BLE001 - as above
                if not warned:
                    log.warning("no notifications, polling the log", channel=self._channel, error=_describe(error))
                warned = True
            self.listening = False
            await asyncio.sleep(TIMEOUT)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _connect(url: str) -> Redis:
    # Callers set timeouts: redis-py's own use `wait_for`, which can lose a cancellation in Python 3.11.
    return connect(url, socket_timeout=None, socket_connect_timeout=TIMEOUT)
