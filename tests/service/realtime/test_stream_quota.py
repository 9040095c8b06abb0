"""The quota of live streams for each user, across processes; dead processes' streams do not count."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2
import pytest

from services.conversations.errors import TooManyStreams
from services.conversations.rate_limits.failopen_redis import FailopenRedis
from services.conversations.realtime.stream_quota import STREAMS_PER_PERSON, StreamQuota
from shared.database.transactions import SessionFactory
from tests.helpers.sse_client import STREAM, reading
from tests.helpers.waiting import eventually
from tests.service.conftest import As, running_api
from tests.service.helpers.callers import problem
from tests.service.helpers.valkey_process import Valkey

TIMEOUT = 5.0  # seconds; the test machine may be slow


@asynccontextmanager
async def process(url: str, *, lease: float = 30.0, redis_timeout: float = TIMEOUT) -> AsyncIterator[StreamQuota]:
    """Run a process's part in the quota; at the end it stops as an operator would stop it."""
    redis = FailopenRedis(url, redis_timeout)
    quota = StreamQuota(redis, lease)
    task = asyncio.create_task(quota.run())
    try:
        yield quota
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await redis.client.aclose()


async def fill(stack: AsyncExitStack, *processes: StreamQuota, person: str = "anna") -> None:
    """Acquire a user's whole quota, in turn."""
    for turn in range(STREAMS_PER_PERSON):
        await stack.enter_async_context(processes[turn % len(processes)].acquire(person))


async def is_free(quota: StreamQuota, person: str = "anna") -> bool:
    """Return whether a user can open another stream."""
    try:
        async with quota.acquire(person):
            return True
    except TooManyStreams:
        return False


async def test_a_users_streams_are_counted_across_processes(valkey: Valkey) -> None:
    async with process(valkey.url) as one, process(valkey.url) as other, AsyncExitStack() as stack:
        await fill(stack, one, other)
        for quota in (one, other):
            with pytest.raises(TooManyStreams):
                await stack.enter_async_context(quota.acquire("anna"))
        assert await is_free(other, "ben")


async def test_an_ended_stream_no_longer_counts(valkey: Valkey) -> None:
    async with process(valkey.url) as one, process(valkey.url) as other:
        async with AsyncExitStack() as stack:
            await fill(stack, one)
            assert not await is_free(other)
        assert await eventually(lambda: is_free(other))


async def test_the_streams_of_a_stopped_process_no_longer_count(valkey: Valkey) -> None:
    async with process(valkey.url) as other:
        async with process(valkey.url) as one, AsyncExitStack() as stack:
            await fill(stack, one)
            assert not await is_free(other)
        assert await is_free(other)


async def test_a_stopping_process_releases_streams_that_have_not_ended(valkey: Valkey) -> None:
    async with process(valkey.url) as other, AsyncExitStack() as stack:
        async with process(valkey.url) as one:
            await fill(stack, one)
        assert await is_free(other)


async def test_the_streams_of_a_killed_process_expire(valkey: Valkey) -> None:
    async with process(valkey.url) as other, AsyncExitStack() as stack:
        redis = FailopenRedis(valkey.url, TIMEOUT)
        await fill(stack, StreamQuota(redis, lease=0.5))  # nothing renews the leases
        assert await eventually(lambda: is_free(other))
        await redis.client.aclose()


async def test_a_stream_is_kept_longer_than_its_lease_while_its_process_lives(valkey: Valkey) -> None:
    async with process(valkey.url, lease=3.0) as one, process(valkey.url) as other, AsyncExitStack() as stack:
        await fill(stack, one)
        loop = asyncio.get_running_loop()
        end = loop.time() + 4.0
        while loop.time() < end:
            assert not await is_free(other)


async def test_a_redis_that_lost_its_data_learns_the_streams_again(valkey: Valkey) -> None:
    async with process(valkey.url, lease=1.0) as one, process(valkey.url) as other, AsyncExitStack() as stack:
        await fill(stack, one)
        eraser = FailopenRedis(valkey.url)
        await eraser.client.flushall()
        await eraser.client.aclose()

        async def is_full() -> bool:
            return not await is_free(other)

        assert await eventually(is_full)


async def test_the_streams_of_two_running_apis_are_counted_together(
    conversations: SessionFactory, databases: dict[str, str], acting_as: As, valkey: Valkey
) -> None:
    url, headers = databases["conversations"], acting_as("anna")
    async with (
        running_api(conversations, url, valkey.url) as one,
        running_api(conversations, url, valkey.url) as other,
        httpx2.AsyncClient(timeout=30) as client,
    ):
        async with AsyncExitStack() as streams:
            for turn in range(STREAMS_PER_PERSON):
                await streams.enter_async_context(reading((one, other)[turn % 2].origin, headers))
            for api in (one, other):

                async def is_refused(origin: str = api.origin) -> bool:
                    async with client.stream("GET", f"{origin}{STREAM}", headers=headers) as answer:
                        if answer.status_code == 200:
                            return False
                        await answer.aread()
                    return problem(answer) == (429, "too-many-streams") and int(answer.headers["Retry-After"]) >= 1

                # On a slow machine a stream may be registered only by the next renewal.
                assert await eventually(is_refused, deadline=30)

        async def opens() -> bool:
            async with reading(other.origin, headers):
                return True

        assert await eventually(opens)


async def test_without_redis_streams_are_allowed_and_counted_again_after_its_return(valkey: Valkey) -> None:
    async with process(valkey.url, redis_timeout=0.5) as one, AsyncExitStack() as stack:
        valkey.freeze()
        await fill(stack, one)
        assert await is_free(one)
        valkey.thaw()
    async with process(valkey.url) as other:
        assert await eventually(lambda: is_free(other))


async def test_without_a_configured_redis_streams_are_allowed() -> None:
    async with AsyncExitStack() as stack:
        quota = StreamQuota(None)
        await fill(stack, quota)
        assert await is_free(quota)
