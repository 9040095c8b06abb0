"""What several wait for is done for them together."""

import asyncio
from collections.abc import Sequence

import pytest

from services.notifications.together import Together


class Work:
    """Doubles numbers, each group only when it is let; notes the groups."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.let = asyncio.Event()

    async def double(self, numbers: Sequence[int]) -> Sequence[int]:
        self.groups.append(list(numbers))
        await self.let.wait()
        if 13 in numbers:
            raise ValueError(numbers)
        return [2 * number for number in numbers]


async def test_who_comes_while_one_group_is_on_its_way_makes_up_the_next_and_each_gets_its_own() -> None:
    work = Work()
    together = Together(work.double)
    asked = [asyncio.create_task(together.do(number)) for number in range(1, 6)]
    await asyncio.sleep(0)
    asked += [asyncio.create_task(together.do(number)) for number in range(6, 9)]
    await asyncio.sleep(0)
    work.let.set()
    assert await asyncio.gather(*asked) == [2 * number for number in range(1, 9)]
    assert work.groups[0] == [1] or work.groups[0] == [1, 2, 3, 4, 5]
    assert len(work.groups) == 2


async def test_all_of_a_group_get_what_it_raised_and_the_next_is_not_touched() -> None:
    work = Work()
    together = Together(work.double)
    first = asyncio.create_task(together.do(1))
    await asyncio.sleep(0)
    doomed = [asyncio.create_task(together.do(number)) for number in (13, 14)]
    await asyncio.sleep(0)
    work.let.set()
    assert await first == 2
    for one in doomed:
        with pytest.raises(ValueError, match="13"):
            await one
    assert await together.do(3) == 6


async def test_who_is_cancelled_at_work_cancels_it_for_the_group_only() -> None:
    work = Work()
    together = Together(work.double)
    first, second = (asyncio.create_task(together.do(number)) for number in (1, 2))
    await asyncio.sleep(0)
    first.cancel()
    work.let.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.wait([second])
    assert await together.do(3) == 6
