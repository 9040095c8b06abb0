"""What several ask for at the same moment, done for them together: one statement or one round trip for all."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Together(Generic[Q, A]):
    """Answers one batch of questions after the other; whoever asks meanwhile is in the next one.

    `answer` takes at most `most` questions, and returns as many answers in their order. What it raises is raised to
    all who asked; who is not there any more when the answer comes is left out. Between two batches it takes a `breath`,
    in seconds: in a rush, some more come meanwhile.
    """

    def __init__(
        self, answer: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], most: int, *, breath: float = 0
    ) -> None:
        self._answer = answer
        self._most = most
        self._breath = breath
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._work: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """Return the answer to a question."""
        asked: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, asked))
        if self._work is None:
            self._work = asyncio.create_task(self._answer_all())
        return await asked

    async def close(self) -> None:
        """Break off the batch under way, when nobody waits for its answer any more; return when it has ended."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def _answer_all(self) -> None:
        batch: Sequence[tuple[Q, asyncio.Future[A]]] = ()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._answer_batch([(question, asked) for question, asked in batch if not asked.done()])
                await asyncio.sleep(self._breath)
        finally:  # however it ends, nobody waits for ever
            self._work, left = None, [*batch, *self._waiting]
            self._waiting = []
            for _, asked in left:
                asked.cancel()

    async def _answer_batch(self, batch: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._answer([question for question, _ in batch]) if batch else ()
        except Exception as error:  # noqa: BLE001 - it is told to those who asked
            for _, asked in batch:
                if not asked.done():
                    asked.set_exception(error)
            return
        for (_, asked), answer in zip(batch, answers, strict=True):
            if not asked.done():
                asked.set_result(answer)
