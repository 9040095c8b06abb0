"""Concurrent requests are handled in batches, and each gets its own result."""

import asyncio
from collections.abc import Sequence

import pytest

from shared.batcher import Batcher


class Answerer:
    """Doubles numbers once it may; records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_answer = asyncio.Event()

    async def answer(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.may_answer.wait()
        if 13 in numbers:
            raise ValueError("thirteen")
        return [number * 2 for number in numbers]


async def submit(batcher: Batcher[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    """Submit numbers and let them reach the batcher."""
    tasks = [asyncio.create_task(batcher.submit(number)) for number in numbers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_requests_during_a_batch_are_in_the_next_one() -> None:
    answerer = Answerer()
    batcher = Batcher(answerer.answer, max_batch_size=2)
    tasks = [*await submit(batcher, 1), *await submit(batcher, 2, 3, 4)]
    answerer.may_answer.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert answerer.batches == [[1], [2, 3], [4]]
    assert await batcher.submit(5) == 10


async def test_requests_that_come_together_share_a_batch() -> None:
    answerer = Answerer()
    answerer.may_answer.set()
    batcher = Batcher(answerer.answer, max_batch_size=9, gather=0.01)
    tasks = [*await submit(batcher, 1), *await submit(batcher, 2)]
    assert await asyncio.gather(*tasks) == [2, 4]
    assert answerer.batches == [[1, 2]]
    assert await batcher.submit(3) == 6


async def test_an_error_reaches_all_requests_of_its_batch_and_no_others() -> None:
    answerer = Answerer()
    batcher = Batcher(answerer.answer, max_batch_size=2)
    tasks = await submit(batcher, 13, 1, 2)
    answerer.may_answer.set()
    for task in tasks[:2]:
        with pytest.raises(ValueError, match="thirteen"):
            await task
    assert await tasks[2] == 4


async def test_a_cancelled_request_is_not_handled_and_delays_no_others() -> None:
    answerer = Answerer()
    batcher = Batcher(answerer.answer, max_batch_size=3)
    answering, waiting, staying = [*await submit(batcher, 1), *await submit(batcher, 2, 3)]
    for task in (answering, waiting):
        task.cancel()
    answerer.may_answer.set()
    assert await staying == 6
    assert answerer.batches == [[1], [3]]


async def test_closing_cancels_all_requests_and_later_ones_still_work() -> None:
    answerer = Answerer()
    batcher = Batcher(answerer.answer, max_batch_size=1)
    tasks = await submit(batcher, 1, 2)
    await batcher.close()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    answerer.may_answer.set()
    assert await batcher.submit(3) == 6


async def test_two_batches_run_at_a_time_and_requests_with_the_same_key_never_share_one() -> None:
    answerer = Answerer()
    batcher = Batcher(answerer.answer, max_batch_size=3, max_in_flight=2, key=lambda number: number % 10)
    tasks = [*await submit(batcher, 1), *await submit(batcher, 2), *await submit(batcher, 3, 13 + 10, 4)]
    assert answerer.batches == [[1], [2]]
    answerer.may_answer.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 46, 8]
    assert sorted(answerer.batches) == [[1], [2], [3, 4], [23]]
