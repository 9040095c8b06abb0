"""Loops of a process that may be asked to stop, and their end.

`asyncio.wait_for` is not used: in Python 3.11 it can lose a cancellation that arrives together with its result.
"""

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Iterator
from typing import Any

import structlog

log = structlog.get_logger()


async def run_until_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run some work, and cancel it when the process is asked to stop."""
    tasks = {asyncio.create_task(work), asyncio.create_task(stop.wait())}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*done)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait some seconds, or until the process is asked to stop."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


async def cancel_all(tasks: Collection[asyncio.Task[Any]], seconds: float) -> None:
    """Cancel tasks and wait until they have ended, for at most `seconds`.

    A cancelled task may still wait: for a database that confirms the end of its statement, or for a name server. Not
    `gather`, whose own cancellation waits for all of its tasks.
    """
    for task in tasks:
        task.cancel()
    done, _ = await asyncio.wait(tasks, timeout=seconds)
    for task in done:
        if not task.cancelled():
            task.exception()  # known, or asyncio would log that it was not retrieved


@contextlib.contextmanager
def log_errors(event: str) -> Iterator[None]:
    """Log an error of one round of a loop and go on, because it must not end the other loops of the process."""
    try:
        yield
    except Exception as error:
        log.warning("%s, retrying", event, error=type(error).__name__)
        log.debug(event, exc_info=True)
