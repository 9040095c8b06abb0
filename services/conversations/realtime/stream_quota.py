"""Places for live streams, so many for each person, for all processes together.

A place is a lease in Redis, which its process renews as long as the stream is open: those of a process that was killed
run out. While Redis is away each process counts for itself (`live.Hub.open`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from uuid import uuid4

import structlog

from services.conversations.errors import TooManyStreams
from services.conversations.rate_limits.failopen_redis import FailopenRedis
from shared.batcher import Batcher

STREAMS_PER_PERSON: Final = 5
LEASE: Final = 30.0  # seconds
RENEW: Final = 10.0  # seconds between renewals
TIMEOUT: Final = 1.0  # seconds for a batch of renewals: no request waits for these
BATCH: Final = 500
MAX_BATCH_SIZE: Final = 100  # places that are taken at once: requests wait for these

# By the clock of Redis: those of the processes may differ.
_NOW = "local time = redis.call('TIME'); local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
_TAKE = f"""{_NOW} local taken = {{}}
    for i, key in ipairs(KEYS) do
        redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
        taken[i] = redis.call('ZCARD', key) < tonumber(ARGV[2]) and 1 or 0
        if taken[i] == 1 then
            redis.call('ZADD', key, now + ARGV[1], ARGV[i + 2])
            redis.call('PEXPIRE', key, ARGV[1])
        end
    end
    return taken
"""
_RENEW = f"""{_NOW}
    for i, key in ipairs(KEYS) do
        redis.call('ZADD', key, now + ARGV[1], ARGV[i + 1])
        redis.call('PEXPIRE', key, ARGV[1])
    end
"""
_GIVE_BACK = "for i, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[i]) end"

log = structlog.get_logger()


class StreamQuota:
    """The places that this process holds."""

    def __init__(self, redis: FailopenRedis | None, lease: float = LEASE) -> None:
        self._redis = redis
        self._lease = lease
        self._held: dict[str, str] = {}  # the key of each lease
        self._left: dict[str, str] = {}  # leases that are yet to be given back
        self._leaving = asyncio.Event()
        self._asked = Batcher(self._take_all, MAX_BATCH_SIZE, linger=0.01)
        if redis is not None:
            self._take: Callable[..., Awaitable[Any]] = redis.client.register_script(_TAKE)
            self._renew: Callable[..., Awaitable[Any]] = redis.client.register_script(_RENEW)
            self._give_back: Callable[..., Awaitable[Any]] = redis.client.register_script(_GIVE_BACK)

    @asynccontextmanager
    async def acquire(self, user_id: str) -> AsyncIterator[None]:
        """Keep a place for one of a person's streams, or raise `TooManyStreams`."""
        if self._redis is None:
            yield
            return
        key, lease = f"chats:streams:{user_id}", str(uuid4())
        # Held from before it is asked for: an answer that comes too late must not leave a place that nobody gives back.
        self._held[lease] = key
        try:
            if not await self._asked.submit((key, lease)):
                raise TooManyStreams(too_many_streams())
            yield
        finally:
            self._left[lease] = self._held.pop(lease)
            self._leaving.set()

    async def _take_all(self, wanted: Sequence[tuple[str, str]]) -> Sequence[bool]:
        assert self._redis is not None  # noqa: S101 - nobody asks without one
        keys, leases = zip(*wanted, strict=True)
        arguments = [int(self._lease * 1000), STREAMS_PER_PERSON, *leases]
        events = await self._redis.call(lambda: self._take(list(keys), arguments))
        return [True] * len(wanted) if events is None else [place == 1 for place in events]

    async def run(self) -> None:
        """Renew what is held and give back what is not, until cancelled; then give back the rest."""
        if self._redis is None:
            return
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        try:
            while True:
                with suppress(TimeoutError):
                    # Python 3.11's `wait_for` can lose a cancellation that comes with what it waits for.
                    async with asyncio.timeout_at(renewed_at + self._renewal):
                        await self._leaving.wait()
                self._leaving.clear()
                await self._tell(self._give_back, self._left, [])
                if loop.time() >= renewed_at + self._renewal:
                    renewed_at = loop.time()
                    await self._tell(self._renew, dict(self._held), [int(self._lease * 1000)])
        finally:
            # Those of streams that did not end in time, too: the server cancels them and does not wait.
            await self._tell(self._give_back, self._left | self._held, [])

    @property
    def _renewal(self) -> float:
        return self._lease * RENEW / LEASE

    async def _tell(self, script: Callable[..., Awaitable[Any]], leases: dict[str, str], arguments: list[Any]) -> None:
        """Tell Redis of leases, taking them out of the dictionary; what it does not hear runs out, or is renewed."""
        while leases:
            batch = [leases.popitem() for _ in range(min(BATCH, len(leases)))]
            ids, keys = zip(*batch, strict=True)
            try:
                async with asyncio.timeout(TIMEOUT):
                    await script(list(keys), [*arguments, *ids])
            except Exception as error:  # noqa: BLE001 - as in `FailopenRedis.ask`
                log.debug("places of live streams are not told of", error=type(error).__name__)
                return


def too_many_streams() -> str:
    """Say why another stream is refused."""
    return f"{STREAMS_PER_PERSON} live streams of this person are open, and no more may be."
