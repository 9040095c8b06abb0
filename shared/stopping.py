"""Loops of a process that may be asked to stop."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
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
        await asyncio.wait_for(stop.wait(), seconds)


@contextlib.contextmanager
def log_errors(event: str) -> Iterator[None]:
    """Log an error of one round of a loop and go on, because it must not end the other loops of the process."""
    try:
        yield
    except Exception as error:
        log.warning("%s, retrying", event, error=type(error).__name__)
        log.debug(event, exc_info=True)
