"""Handle requests that arrive at the same moment in one batch: one statement or one round trip for all."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class Batcher(Generic[Request, Result]):
    """Handles one batch after another. A request that arrives meanwhile goes into the next one.

    `handle` receives at most `max_batch_size` requests and returns their results in the same order. An error that it
    raises goes to every caller of the batch. Callers that no longer wait are left out. `linger` is the pause between
    two batches, in seconds: under load it makes them larger.
    """

    def __init__(
        self,
        handle: Callable[[Sequence[Request]], Awaitable[Sequence[Result]]],
        max_batch_size: int,
        *,
        linger: float = 0,
    ) -> None:
        self._handle = handle
        self._max_batch_size = max_batch_size
        self._linger = linger
        self._waiting: list[tuple[Request, asyncio.Future[Result]]] = []
        self._work: asyncio.Task[None] | None = None

    async def submit(self, request: Request) -> Result:
        """Add a request to the next batch, and return its result."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._work is None:
            self._work = asyncio.create_task(self._run())
        return await future

    async def close(self) -> None:
        """Cancel the batch that is running, and return when it has ended."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def _run(self) -> None:
        batch: Sequence[tuple[Request, asyncio.Future[Result]]] = ()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._max_batch_size], self._waiting[self._max_batch_size :]
                await self._run_batch([(request, future) for request, future in batch if not future.done()])
                await asyncio.sleep(self._linger)
        finally:  # however it ends, no caller waits forever
            self._work, left = None, [*batch, *self._waiting]
            self._waiting = []
            for _, future in left:
                future.cancel()

    async def _run_batch(self, batch: Sequence[tuple[Request, asyncio.Future[Result]]]) -> None:
        try:
            answers = await self._handle([request for request, _ in batch]) if batch else ()
        except Exception as error:  # noqa: BLE001 - every caller gets it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
