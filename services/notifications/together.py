"""Doing for several at once what each of them waits for."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Does one piece of work for all who ask for it while the one before is under way.

    `work` gets what they gave, and returns as many results in that order. What it raises all of them get. It is done by
    the first of them to have their turn: whoever cancels that one, cancels it for all.
    """

    def __init__(self, work: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        self._work = work
        self._turn = asyncio.Lock()
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []

    async def do(self, one: T) -> R:
        """Wait for the result of `one`."""
        mine: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, mine))
        async with self._turn:
            if not mine.done():
                group, self._waiting = self._waiting, []
                await self._do(group)
        return await mine

    async def _do(self, group: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._work([one for one, _ in group])
        except Exception as error:  # noqa: BLE001 - it goes to all who asked
            for _, future in group:
                future.set_exception(error)
        else:
            for (_, future), result in zip(group, results, strict=True):
                future.set_result(result)
        finally:
            for _, future in group:
                future.cancel()  # unless it is done
