"""The limit of open live streams per user, shared by all processes.

Each open stream holds a lease in Redis, which its process renews; the leases of a killed process expire. While Redis is
unavailable, each process counts its own streams (`hub.Hub.open`).
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog

from services.conversations.errors import TooManyStreams
from services.conversations.rate_limits.failopen_redis import FailopenRedis
from shared.batcher import Batcher

STREAMS_PER_PERSON: Final = 5
LEASE: Final = 30.0  # seconds
RENEW: Final = 10.0  # seconds between renewals
TIMEOUT: Final = 1.0  # seconds for a batch of renewals; no request waits for these
BATCH: Final = 500  # leases renewed or released at once
MAX_BATCH_SIZE: Final = 200  # leases acquired at once; requests wait for these

# By the clock of Redis, because those of the processes may differ.
_NOW = "local time = redis.call('TIME'); local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
_ACQUIRE = f"""{_NOW} local taken = {{}}
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
_RELEASE = "for i, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[i]) end"

log = structlog.get_logger()


class StreamQuota:
    """The leases of the streams of this process."""

    def __init__(self, redis: FailopenRedis | None, lease: float = LEASE) -> None:
        self._redis = redis
        self._lease = lease
        self._held: dict[str, str] = {}  # leases and their keys
        self._to_release: dict[str, str] = {}  # leases and their keys
        self._wakeup = asyncio.Event()
        self._batcher = Batcher(self._acquire_batch, MAX_BATCH_SIZE, linger=0.03)
        if redis is not None:
            self._acquire_script: Callable[..., Awaitable[Any]] = redis.client.register_script(_ACQUIRE)
            self._renew_script: Callable[..., Awaitable[Any]] = redis.client.register_script(_RENEW)
            self._release_script: Callable[..., Awaitable[Any]] = redis.client.register_script(_RELEASE)

    @asynccontextmanager
    async def acquire(self, user_id: str) -> AsyncIterator[None]:
        """Hold a lease for one of a user's streams, or raise `TooManyStreams`."""
        if self._redis is None:
            yield
            return
        key, lease = f"chats:streams:{user_id}", secrets.token_hex(16)
        # Recorded before the request, so that the lease is released even if the answer comes too late.
        self._held[lease] = key
        try:
            if not await self._batcher.submit((key, lease)):
                raise TooManyStreams(too_many_streams())
            yield
        finally:
            self._to_release[lease] = self._held.pop(lease)
            self._wakeup.set()

    async def _acquire_batch(self, requests: Sequence[tuple[str, str]]) -> Sequence[bool]:
        assert self._redis is not None  # noqa: S101 - `acquire` does not submit without Redis
        keys, leases = zip(*requests, strict=True)
        arguments = [int(self._lease * 1000), STREAMS_PER_PERSON, *leases]
        acquired = await self._redis.call(lambda: self._acquire_script(list(keys), arguments))
        return [True] * len(requests) if acquired is None else [result == 1 for result in acquired]

    async def run(self) -> None:
        """Renew held leases and release others, until cancelled; then release all."""
        if self._redis is None:
            return
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        try:
            while True:
                with suppress(TimeoutError):
                    # Not `wait_for`: in Python 3.11 it can lose a cancellation that arrives together with its result.
                    async with asyncio.timeout_at(renewed_at + self._renewal_interval):
                        await self._wakeup.wait()
                self._wakeup.clear()
                await self._run_script(self._release_script, self._to_release, [])
                if loop.time() >= renewed_at + self._renewal_interval:
                    renewed_at = loop.time()
                    await self._run_script(self._renew_script, dict(self._held), [int(self._lease * 1000)])
        finally:
            # Also the leases of streams that did not end in time: the server cancels those without waiting for them.
            await self._run_script(self._release_script, self._to_release | self._held, [])

    @property
    def _renewal_interval(self) -> float:
        return self._lease * RENEW / LEASE

    async def _run_script(
        self, script: Callable[..., Awaitable[Any]], leases: dict[str, str], arguments: list[Any]
    ) -> None:
        """Run a script on leases in batches, and remove these from the dictionary.

        After a failure the remaining leases expire or are retried.
        """
        while leases:
            batch = [leases.popitem() for _ in range(min(BATCH, len(leases)))]
            ids, keys = zip(*batch, strict=True)
            try:
                async with asyncio.timeout(TIMEOUT):
                    await script(list(keys), [*arguments, *ids])
            except Exception as error:  # noqa: BLE001 - as in `FailopenRedis.call`
                log.debug("stream leases not updated", error=type(error).__name__)
                return


def too_many_streams() -> str:
    """Return the detail of `TooManyStreams`."""
    return f"This user already has the maximum of {STREAMS_PER_PERSON} live streams open."
