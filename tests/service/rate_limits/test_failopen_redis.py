"""A Redis that is away costs at most the patience of those who asked when it went, and nobody after them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.conversations.rate_limits.failopen_redis import MAX_CONCURRENT_CALLS, TIMEOUT, FailopenRedis, connect
from tests.helpers.waiting import eventually
from tests.service.helpers.valkey_process import Valkey


class Asking:
    """Questions to a Redis, counted: those that reached it, and those that came back with an answer."""

    def __init__(self, url: str) -> None:
        self.redis = FailopenRedis(url, timeout=0.5)  # the machine of a test may be slow
        self.begun = 0

    async def question(self) -> bool:
        self.begun += 1
        return bool(await self.redis.client.ping())

    async def ask(self) -> bool | None:
        return await self.redis.call(self.question)

    async def is_asked(self) -> bool | None:
        """Tell whether questions are answered."""
        return await self.ask()


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Asking]:
    """Ask a Redis that is looked for ten times a second when it is away."""
    one = Asking(url)
    task = asyncio.create_task(one.redis.run(pause=0.1))
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_frozen_redis_is_waited_for_once_and_then_not_asked_at_all(valkey: Valkey) -> None:
    one = Asking(valkey.url)
    await one.redis.client.ping()  # connects, for which a busy machine may need more than an answer has
    assert await one.ask() is True
    valkey.freeze()
    assert await one.ask() is None
    assert one.redis.is_suspended
    before = one.begun
    assert [await one.ask() for _ in range(200)] == [None] * 200
    assert one.begun == before
    await one.redis.client.aclose()


async def test_a_burst_at_a_redis_that_freezes_asks_no_more_than_it_asks_at_once(valkey: Valkey) -> None:
    one = Asking(valkey.url)
    valkey.freeze()
    assert await asyncio.gather(*(one.ask() for _ in range(300))) == [None] * 300
    assert one.begun <= MAX_CONCURRENT_CALLS
    await one.redis.client.aclose()


async def test_a_question_is_not_waited_for_longer_than_the_patience_it_has() -> None:
    loop, waited = asyncio.get_running_loop(), asyncio.Event()
    redis = FailopenRedis("redis://127.0.0.1:1")
    began = loop.time()
    assert await redis.call(waited.wait) is None
    assert TIMEOUT * 0.9 <= loop.time() - began < TIMEOUT + 1  # the machine of a test may be slow
    assert redis.is_suspended


async def test_a_redis_that_was_frozen_is_asked_again_once_it_has_been_thawed(valkey: Valkey) -> None:
    async with asking(valkey.url) as one:
        valkey.freeze()
        assert await one.ask() is None
        valkey.thaw()
        assert await eventually(one.is_asked)


async def test_a_redis_that_was_killed_is_asked_again_once_it_has_been_started(valkey: Valkey) -> None:
    async with asking(valkey.url) as one:
        assert await one.ask() is True
        await valkey.kill()
        assert await one.ask() is None
        await valkey.start()
        assert await eventually(one.is_asked)


async def test_a_question_that_fails_although_redis_is_there_is_not_asked_again_and_again(valkey: Valkey) -> None:
    async with asking(valkey.url) as one:
        asked = 0
        await one.redis.client.set("words", "not a number")

        async def wrong() -> int:
            nonlocal asked
            asked += 1
            return int(await one.redis.client.incr("words"))

        assert await one.redis.call(wrong) is None
        await eventually(lambda: not one.redis.is_suspended)  # the first look is at once
        assert await one.redis.call(wrong) is None
        assert [await one.redis.call(wrong) for _ in range(50)] == [None] * 50
        assert asked == 2


async def test_a_process_that_is_busy_does_not_take_its_own_slowness_for_that_of_redis(valkey: Valkey) -> None:
    loop, redis = asyncio.get_running_loop(), FailopenRedis(valkey.url)
    await redis.client.ping()
    turns = 0

    def work() -> None:
        nonlocal turns
        turns += 1
        time.sleep(TIMEOUT)  # as much in each turn of the loop as a question has in all
        if turns < 20:
            loop.call_soon(work)

    loop.call_soon(work)
    assert await redis.call(redis.client.ping) is True
    assert 1 <= turns < 20
    await eventually(lambda: turns == 20)
    await redis.client.aclose()


async def test_many_questions_at_once_are_all_answered(valkey: Valkey) -> None:
    one = Asking(valkey.url)
    assert all(await asyncio.gather(*(one.ask() for _ in range(500))))
    await one.redis.client.aclose()


async def test_one_that_takes_no_writes_is_away_until_it_takes_them_again(valkey: Valkey) -> None:
    async with asking(valkey.url) as one, connect(valkey.url) as operator:
        await operator.slaveof("127.0.0.1", 1)
        assert await one.redis.call(lambda: one.redis.client.incr("chats:counted")) is None
        assert await one.redis.call(one.question) is None, "it answers questions, and is left alone all the same"
        await operator.slaveof()
        await eventually(one.is_asked)
