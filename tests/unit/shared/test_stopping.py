"""Tasks that are cancelled end, also at awkward moments."""

import asyncio

import pytest

from shared.process.stopping import cancel_all, pause


@pytest.mark.parametrize("turns", range(4))
async def test_a_pause_that_is_cancelled_while_it_ends_is_cancelled(turns: int) -> None:
    stop = asyncio.Event()
    pausing = asyncio.create_task(pause(stop, 60))
    await asyncio.sleep(0)
    stop.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    if pausing.cancel():  # else it has ended before
        with pytest.raises(asyncio.CancelledError):
            await pausing


async def test_a_task_that_does_not_end_when_it_is_cancelled_holds_nobody_up() -> None:
    ended = asyncio.Event()

    async def confirm_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await ended.wait()

    async def fail() -> None:
        raise ValueError

    tasks = [asyncio.create_task(confirm_end()), asyncio.create_task(fail())]
    await asyncio.sleep(0)
    await cancel_all(tasks, 0.01)
    assert [task.done() for task in tasks] == [False, True]
    ended.set()
    await asyncio.wait(tasks)
