"""Handle concurrent requests in batches, with one statement or one round trip for each batch."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class Batcher(Generic[Request, Result]):
    """Handles at most `max_in_flight` batches at a time. A request that arrives meanwhile goes into a later one.

    `handle` receives at most `max_batch_size` requests and returns their results in the same order. An error that it
    raises goes to every caller of the batch. Callers that no longer wait are left out. Requests with the same `key`
    never share a batch. `linger` is the pause between two batches, in seconds: under load it makes them larger.
    `gather` is how long a batch waits for requests that come at nearly the same time.
    """

    def __init__(
        self,
        handle: Callable[[Sequence[Request]], Awaitable[Sequence[Result]]],
        max_batch_size: int,
        *,
        max_in_flight: int = 1,
        linger: float = 0,
        gather: float = 0,
        key: Callable[[Request], Hashable] | None = None,
    ) -> None:
        self._handle = handle
        self._max_batch_size = max_batch_size
        self._max_in_flight = max_in_flight
        self._linger = linger
        self._gather = gather
        self._key = key
        self._waiting: list[tuple[Request, asyncio.Future[Result]]] = []
        self._in_flight: set[asyncio.Task[Any]] = set()

    async def submit(self, request: Request) -> Result:
        """Add a request to a later batch, and return its result."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if len(self._in_flight) < self._max_in_flight:
            self._in_flight.add(asyncio.create_task(self._run()))
        return await future

    async def close(self) -> None:
        """Cancel the batches that are running, and return when they have ended."""
        running = list(self._in_flight)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs in one
        batch: list[tuple[Request, asyncio.Future[Result]]] = []
        try:
            while self._waiting:
                if self._gather:
                    await asyncio.sleep(self._gather)
                batch = self._take()
                await self._run_batch([(request, future) for request, future in batch if not future.done()])
                await asyncio.sleep(self._linger)
        finally:
            # At once, not when the task is done: a request that arrives in between would find nobody to take it.
            self._in_flight.discard(task)
            if not self._in_flight:  # however it ends, no caller waits forever
                batch, self._waiting = [*batch, *self._waiting], []
            for _, future in batch:
                future.cancel()

    def _take(self) -> list[tuple[Request, asyncio.Future[Result]]]:
        """Remove the next batch from the waiting requests."""
        batch, rest = self._waiting[: self._max_batch_size], self._waiting[self._max_batch_size :]
        if self._key is not None:
            keys: set[Hashable] = set()
            first: list[tuple[Request, asyncio.Future[Result]]] = []
            later: list[tuple[Request, asyncio.Future[Result]]] = []
            for waiting in batch:
                key = self._key(waiting[0])
                (later if key in keys else first).append(waiting)
                keys.add(key)
            batch, rest = first, [*later, *rest]
        self._waiting = rest
        return batch

    async def _run_batch(self, batch: Sequence[tuple[Request, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._handle([request for request, _ in batch]) if batch else ()
        except Exception as error:  # noqa: BLE001 - every caller gets it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
