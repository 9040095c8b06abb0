"""A Redis for questions that nobody waits long for: without it, whatever was asked about goes on."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

TIMEOUT: Final = 0.05  # seconds that a question waits for its answer
# So many times a process looks what has arrived once it has waited: one that is busy must not take its own slowness for
# that of Redis. Else a burst of requests would switch its own limits off.
LOOP_CHECKS: Final = 25
PAUSE: Final = 5.0  # seconds without questions, once one was not answered
PROBE_TIMEOUT: Final = 1.0  # seconds that the look whether it is back may take, to connect included
PROBE: Final = "chats:probe"  # a key that is written: one that was demoted, or is full, answers a mere ping as well
MAX_CONCURRENT_CALLS: Final = 4  # at the same time; what is more waits its turn, outside of its 50 ms

T = TypeVar("T")

log = structlog.get_logger()


def connect(url: str, **options: Any) -> Redis:
    """Make a client, which connects when it is first used. It does not repeat what failed."""
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":  # as Celery writes it
        database = parse_qs(parts.query).get("virtual_host", ["0"])[0]
        url = f"unix://{parts.netloc}{parts.path}?db={database}"
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), client_name=None, **options)


class FailopenRedis:
    """Asks Redis as long as it answers. One question that is not answered in time stops all, until `run` finds it back.

    So a Redis that is frozen costs those that were asking when it froze 50 ms once, and nobody after them.
    """

    def __init__(self, url: str, patience: float = TIMEOUT) -> None:
        self.client = connect(
            url,
            # Whoever asks sets the time: redis-py does so by `wait_for`, which in Python 3.11 can lose a cancellation.
            socket_timeout=None,
            socket_connect_timeout=PROBE_TIMEOUT,
            max_connections=MAX_CONCURRENT_CALLS + 2,  # the probe, and what renews leases
        )
        self._patience = patience
        self._turns = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._away = asyncio.Event()

    @property
    def is_away(self) -> bool:
        """Whether nothing is asked at the moment."""
        return self._away.is_set()

    async def call(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """Return the answer, or None without one; a question may be several commands, and has 50 ms for all."""
        async with self._turns:
            if self.is_away:
                return None
            try:
                return await self._answer(question)
            except Exception as error:  # noqa: BLE001 - redis-py raises more than its own kind; none may refuse a request
                if not self.is_away:
                    log.warning("nothing is counted for now, Redis does not answer", error=type(error).__name__)
                self._away.set()
                return None

    async def _answer(self, question: Callable[[], Awaitable[T]]) -> T:
        task = asyncio.ensure_future(question())
        try:
            await asyncio.wait({task}, timeout=self._patience)
            for _ in range(LOOP_CHECKS):
                if task.done():
                    return task.result()
                await asyncio.sleep(0)
            raise TimeoutError
        finally:
            if task.cancel():
                await asyncio.wait({task})

    async def run(self, pause: float = PAUSE) -> None:
        """Look for a Redis that was away until it is back; until cancelled.

        The first look is at once, because it may have been this process that was slow; others, also when questions
        fail again although it is there, come after a pause.
        """
        loop = asyncio.get_running_loop()
        looked_at = -math.inf
        async with self.client:
            while True:
                await self._away.wait()
                if loop.time() - looked_at < pause:
                    await asyncio.sleep(pause)
                looked_at = loop.time()
                if await self._answers():
                    self._away.clear()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                # Over a new connection: after a failover another server may have the name.
                await self.client.connection_pool.disconnect(inuse_connections=False)
                return bool(await self.client.set(PROBE, "", px=1000))
        except Exception:  # noqa: BLE001 - whatever it is, the next look may find it back
            return False
