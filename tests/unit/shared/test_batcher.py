"""Questions of the same moment are answered together, and each gets its own answer."""

import asyncio
from collections.abc import Sequence

import pytest

from shared.batcher import Batcher


class Answerer:
    """Doubles numbers once it is told to; keeps which were asked together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_answer = asyncio.Event()

    async def answer(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.may_answer.wait()
        if 13 in numbers:
            raise ValueError("thirteen")
        return [number * 2 for number in numbers]


async def asked(together: Batcher[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    """Ask, and let the questions arrive."""
    tasks = [asyncio.create_task(together.submit(number)) for number in numbers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_who_asks_while_others_are_answered_is_in_the_next_batch() -> None:
    answerer = Answerer()
    together = Batcher(answerer.answer, max_batch_size=2)
    tasks = [*await asked(together, 1), *await asked(together, 2, 3, 4)]
    answerer.may_answer.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert answerer.batches == [[1], [2, 3], [4]]
    assert await together.submit(5) == 10


async def test_what_goes_wrong_is_told_to_all_who_asked_together_and_to_nobody_else() -> None:
    answerer = Answerer()
    together = Batcher(answerer.answer, max_batch_size=2)
    tasks = await asked(together, 13, 1, 2)
    answerer.may_answer.set()
    for task in tasks[:2]:
        with pytest.raises(ValueError, match="thirteen"):
            await task
    assert await tasks[2] == 4


async def test_who_has_left_is_not_answered_and_nobody_waits_for_them() -> None:
    answerer = Answerer()
    together = Batcher(answerer.answer, max_batch_size=3)
    answering, waiting, staying = [*await asked(together, 1), *await asked(together, 2, 3)]
    for task in (answering, waiting):
        task.cancel()
    answerer.may_answer.set()
    assert await staying == 6
    assert answerer.batches == [[1], [3]]


async def test_what_is_broken_off_is_answered_to_nobody_and_the_next_is_not_touched() -> None:
    answerer = Answerer()
    together = Batcher(answerer.answer, max_batch_size=1)
    tasks = await asked(together, 1, 2)
    await together.close()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    answerer.may_answer.set()
    assert await together.submit(3) == 6


async def test_two_batches_run_at_a_time_and_requests_with_the_same_key_never_share_one() -> None:
    answerer = Answerer()
    batcher = Batcher(answerer.answer, max_batch_size=3, max_in_flight=2, key=lambda number: number % 10)
    tasks = [*await asked(batcher, 1), *await asked(batcher, 2), *await asked(batcher, 3, 13 + 10, 4)]
    assert answerer.batches == [[1], [2]]
    answerer.may_answer.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 46, 8]
    assert sorted(answerer.batches) == [[1], [2], [3, 4], [23]]
