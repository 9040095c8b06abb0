"""A Redis client that fails open: if Redis does not answer in time, callers go on without it."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

TIMEOUT: Final = 0.05  # seconds that a call waits for Redis
# Turns of the event loop in which an answer may still arrive after the timeout. A busy process must not mistake its own
# slowness for that of Redis: otherwise a burst of requests would disable the limits.
LOOP_CHECKS: Final = 25
PAUSE: Final = 5.0  # seconds between probes of a Redis that is down
PROBE_TIMEOUT: Final = 1.0  # seconds for a probe, including the connection
PROBE: Final = "chats:probe"  # probes write this key, because a demoted or full server also answers PING
MAX_CONCURRENT_CALLS: Final = 4  # further calls wait for a slot, which does not count as part of their 50 ms

T = TypeVar("T")

log = structlog.get_logger()


def connect(url: str, **options: Any) -> Redis:
    """Return a client that connects on first use and does not retry."""
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":  # Celery's scheme for Unix sockets
        database = parse_qs(parts.query).get("virtual_host", ["0"])[0]
        url = f"unix://{parts.netloc}{parts.path}?db={database}"
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), client_name=None, **options)


class FailopenRedis:
    """Calls Redis while it answers. A call that times out suspends all calls until `run` finds Redis available again.

    So a frozen Redis delays the calls in progress by 50 ms once, and no later ones.
    """

    def __init__(self, url: str, timeout: float = TIMEOUT) -> None:
        self.client = connect(
            url,
            # Callers set timeouts: redis-py's own use `wait_for`, which can lose a cancellation in Python 3.11.
            socket_timeout=None,
            socket_connect_timeout=PROBE_TIMEOUT,
            max_connections=MAX_CONCURRENT_CALLS + 2,  # for the probe and the renewal of leases
        )
        self._timeout = timeout
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._unavailable = asyncio.Event()

    @property
    def is_suspended(self) -> bool:
        """Whether calls are suspended."""
        return self._unavailable.is_set()

    async def call(self, command: Callable[[], Awaitable[T]]) -> T | None:
        """Return the result of one or more commands, or None if they fail or take more than 50 ms in total."""
        async with self._slots:
            if self.is_suspended:
                return None
            try:
                return await self._run_command(command)
            except Exception as error:  # noqa: BLE001 - redis-py raises more than its own errors; none may fail a request
                if not self.is_suspended:
                    log.warning("Redis unavailable, rate limits disabled", error=type(error).__name__)
                self._unavailable.set()
                return None

    async def _run_command(self, command: Callable[[], Awaitable[T]]) -> T:
        task = asyncio.ensure_future(command())
        try:
            await asyncio.wait({task}, timeout=self._timeout)
            for _ in range(LOOP_CHECKS):
                if task.done():
                    return task.result()
                await asyncio.sleep(0)
            raise TimeoutError
        finally:
            if task.cancel():
                await asyncio.wait({task})

    async def run(self, pause: float = PAUSE) -> None:
        """Probe a Redis that did not answer until it does, and resume calls; until cancelled.

        The first probe is immediate, because this process may have been the slow one. Later probes wait for the pause,
        even if a probe succeeded in between.
        """
        loop = asyncio.get_running_loop()
        probed_at = -math.inf
        async with self.client:
            while True:
                await self._unavailable.wait()
                if loop.time() - probed_at < pause:
                    await asyncio.sleep(pause)
                probed_at = loop.time()
                if await self._probe():
                    self._unavailable.clear()

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                # Over a new connection: after a failover the name may lead to another server.
                await self.client.connection_pool.disconnect(inuse_connections=False)
                return bool(await self.client.set(PROBE, "", px=1000))
        except Exception:  # noqa: BLE001 - the next probe may succeed
            return False
