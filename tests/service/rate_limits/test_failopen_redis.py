"""When Redis goes down, requests at that moment wait at most for the timeout, and later ones do not wait at all."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.conversations.rate_limits.failopen_redis import MAX_CONCURRENT_CALLS, TIMEOUT, FailopenRedis, connect
from tests.helpers.waiting import eventually
from tests.service.helpers.valkey_process import Valkey


class CountingClient:
    """Calls to a Redis, counted when they start."""

    def __init__(self, url: str) -> None:
        self.redis = FailopenRedis(url, timeout=0.5)  # the test machine may be slow
        self.started = 0

    async def ping(self) -> bool:
        self.started += 1
        return bool(await self.redis.client.ping())

    async def call(self) -> bool | None:
        return await self.redis.call(self.ping)

    async def answers(self) -> bool | None:
        """Return whether calls are answered."""
        return await self.call()


@asynccontextmanager
async def probing(url: str) -> AsyncIterator[CountingClient]:
    """Call a Redis that is probed ten times a second when it is down."""
    client = CountingClient(url)
    task = asyncio.create_task(client.redis.run(pause=0.1))
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_frozen_redis_is_waited_for_once_and_then_not_called_at_all(valkey: Valkey) -> None:
    client = CountingClient(valkey.url)
    await client.redis.client.ping()  # connecting may take a busy machine longer than the timeout
    assert await client.call() is True
    valkey.freeze()
    assert await client.call() is None
    assert client.redis.is_suspended
    before = client.started
    assert [await client.call() for _ in range(200)] == [None] * 200
    assert client.started == before
    await client.redis.client.aclose()


async def test_a_burst_at_a_freezing_redis_makes_a_limited_number_of_calls(valkey: Valkey) -> None:
    client = CountingClient(valkey.url)
    valkey.freeze()
    assert await asyncio.gather(*(client.call() for _ in range(300))) == [None] * 300
    assert client.started <= MAX_CONCURRENT_CALLS
    await client.redis.client.aclose()


async def test_a_call_waits_no_longer_than_the_timeout() -> None:
    loop, waited = asyncio.get_running_loop(), asyncio.Event()
    redis = FailopenRedis("redis://127.0.0.1:1")
    began = loop.time()
    assert await redis.call(waited.wait) is None
    assert TIMEOUT * 0.9 <= loop.time() - began < TIMEOUT + 1  # the test machine may be slow
    assert redis.is_suspended


async def test_a_frozen_redis_is_used_again_after_thawing(valkey: Valkey) -> None:
    async with probing(valkey.url) as client:
        valkey.freeze()
        assert await client.call() is None
        valkey.thaw()
        assert await eventually(client.answers)


async def test_a_killed_redis_is_used_again_after_its_restart(valkey: Valkey) -> None:
    async with probing(valkey.url) as client:
        assert await client.call() is True
        await valkey.kill()
        assert await client.call() is None
        await valkey.start()
        assert await eventually(client.answers)


async def test_a_call_that_fails_although_redis_is_up_is_not_repeated_over_and_over(valkey: Valkey) -> None:
    async with probing(valkey.url) as client:
        calls = 0
        await client.redis.client.set("words", "not a number")

        async def wrong() -> int:
            nonlocal calls
            calls += 1
            return int(await client.redis.client.incr("words"))

        assert await client.redis.call(wrong) is None
        await eventually(lambda: not client.redis.is_suspended)  # the first probe is immediate
        assert await client.redis.call(wrong) is None
        assert [await client.redis.call(wrong) for _ in range(50)] == [None] * 50
        assert calls == 2


async def test_a_busy_process_does_not_mistake_its_own_slowness_for_that_of_redis(valkey: Valkey) -> None:
    loop, redis = asyncio.get_running_loop(), FailopenRedis(valkey.url)
    await redis.client.ping()
    turns = 0

    def work() -> None:
        nonlocal turns
        turns += 1
        time.sleep(TIMEOUT)  # each iteration of the loop takes as long as a call may take in all
        if turns < 20:
            loop.call_soon(work)

    loop.call_soon(work)
    assert await redis.call(redis.client.ping) is True
    assert 1 <= turns < 20
    await eventually(lambda: turns == 20)
    await redis.client.aclose()


async def test_many_concurrent_calls_are_all_answered(valkey: Valkey) -> None:
    client = CountingClient(valkey.url)
    assert all(await asyncio.gather(*(client.call() for _ in range(500))))
    await client.redis.client.aclose()


async def test_a_read_only_redis_is_suspended_until_it_accepts_writes_again(valkey: Valkey) -> None:
    async with probing(valkey.url) as client, connect(valkey.url) as operator:
        await operator.slaveof("127.0.0.1", 1)
        assert await client.redis.call(lambda: client.redis.client.incr("chats:counted")) is None
        assert await client.redis.call(client.ping) is None, "it answers reads, but is suspended"
        await operator.slaveof()
        await eventually(client.answers)
