"""Places for live streams: so many for each person, in all processes together, and none for the dead."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2
import pytest

from services.conversations.errors import TooManyStreams
from services.conversations.rate_limits.failopen_redis import FailopenRedis
from services.conversations.realtime.stream_quota import STREAMS_PER_PERSON, StreamQuota
from shared.database import SessionFactory
from tests.helpers.sse_client import STREAM, reading
from tests.helpers.waiting import eventually
from tests.service.conftest import As, running_api
from tests.service.helpers.callers import problem
from tests.service.helpers.valkey_process import Valkey

PATIENCE = 5.0  # seconds for a question: the machine of a test may be slow


@asynccontextmanager
async def process(url: str, *, lease: float = 30.0, patience: float = PATIENCE) -> AsyncIterator[StreamQuota]:
    """Run what a process does about its places; at the end it stops as an operator would stop it."""
    redis = FailopenRedis(url, patience)
    places = StreamQuota(redis, lease)
    task = asyncio.create_task(places.run())
    try:
        yield places
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await redis.client.aclose()


async def fill(stack: AsyncExitStack, *processes: StreamQuota, person: str = "anna") -> None:
    """Take all places of a person, in turn."""
    for turn in range(STREAMS_PER_PERSON):
        await stack.enter_async_context(processes[turn % len(processes)].acquire(person))


async def is_free(places: StreamQuota, person: str = "anna") -> bool:
    """Tell whether a person has another place."""
    try:
        async with places.acquire(person):
            return True
    except TooManyStreams:
        return False


async def test_a_persons_streams_are_counted_for_all_processes_together(valkey: Valkey) -> None:
    async with process(valkey.url) as one, process(valkey.url) as other, AsyncExitStack() as stack:
        await fill(stack, one, other)
        for places in (one, other):
            with pytest.raises(TooManyStreams):
                await stack.enter_async_context(places.acquire("anna"))
        assert await is_free(other, "ben")


async def test_the_place_of_a_stream_that_ended_is_free_again(valkey: Valkey) -> None:
    async with process(valkey.url) as one, process(valkey.url) as other:
        async with AsyncExitStack() as stack:
            await fill(stack, one)
            assert not await is_free(other)
        assert await eventually(lambda: is_free(other))


async def test_a_process_that_stops_gives_its_places_back(valkey: Valkey) -> None:
    async with process(valkey.url) as other:
        async with process(valkey.url) as one, AsyncExitStack() as stack:
            await fill(stack, one)
            assert not await is_free(other)
        assert await is_free(other)


async def test_a_process_that_stops_gives_back_the_places_of_streams_that_have_not_ended(valkey: Valkey) -> None:
    async with process(valkey.url) as other, AsyncExitStack() as stack:
        async with process(valkey.url) as one:
            await fill(stack, one)
        assert await is_free(other)


async def test_the_places_of_a_process_that_was_killed_run_out(valkey: Valkey) -> None:
    async with process(valkey.url) as other, AsyncExitStack() as stack:
        redis = FailopenRedis(valkey.url, PATIENCE)
        await fill(stack, StreamQuota(redis, lease=0.5))  # nobody renews them
        assert await eventually(lambda: is_free(other))
        await redis.client.aclose()


async def test_a_place_is_kept_for_longer_than_its_lease_as_long_as_its_process_lives(valkey: Valkey) -> None:
    async with process(valkey.url, lease=1.5) as one, process(valkey.url) as other, AsyncExitStack() as stack:
        await fill(stack, one)
        loop = asyncio.get_running_loop()
        end = loop.time() + 4.0
        while loop.time() < end:
            assert not await is_free(other)


async def test_places_are_known_again_to_a_redis_that_forgot_them(valkey: Valkey) -> None:
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
        httpx2.AsyncClient() as client,
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

                # Not at once on a machine that is too slow for 50 ms: what was not told is told by the next renewal.
                assert await eventually(is_refused, deadline=30)

        async def opens() -> bool:
            async with reading(other.origin, headers):
                return True

        assert await eventually(opens)


async def test_without_redis_places_are_given_and_its_return_is_no_surprise(valkey: Valkey) -> None:
    async with process(valkey.url, patience=0.5) as one, AsyncExitStack() as stack:
        valkey.freeze()
        await fill(stack, one)
        assert await is_free(one)
        valkey.thaw()
    async with process(valkey.url) as other:
        assert await eventually(lambda: is_free(other))


async def test_without_a_redis_at_all_places_are_given() -> None:
    async with AsyncExitStack() as stack:
        places = StreamQuota(None)
        await fill(stack, places)
        assert await is_free(places)
