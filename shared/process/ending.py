"""The end of a process: its deadline after SIGTERM, and what the process logs if it would wait longer."""

import _thread
import asyncio
import faulthandler
import os
import signal
import sys
import time
from typing import Final, NoReturn

import structlog

from shared.observability.tracing import flush_traces
from shared.process.stacks import stacks_of_tasks, stacks_of_threads

SHUTDOWN_DEADLINE = 25  # seconds after SIGTERM after which the kernel ends the process
LAST_WORDS: Final = 1  # seconds before that, in which the process logs what it waits for
LEAVING: Final = 3.0  # seconds for what is left when the work has ended

log = structlog.get_logger()


def arm_shutdown_deadline() -> None:
    """Make the kernel end this process by SIGALRM after SHUTDOWN_DEADLINE seconds, unless it has ended before.

    Only code that keeps the event loop from running can make that necessary. Other processes take over unfinished work.
    Before its end, the process logs where it is. Further calls do not extend the deadline.
    """
    if any(signal.getitimer(signal.ITIMER_REAL)):
        return
    signal.alarm(SHUTDOWN_DEADLINE)
    faulthandler.register(signal.SIGALRM, chain=True)  # in case that code of C keeps Python from running until then
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    # Not `threading.Thread`: this runs in a signal handler, perhaps while this thread holds that module's locks.
    _thread.start_new_thread(_log_last_words, (loop,))


def seconds_left(most: float) -> float:
    """Return how long a step of this process's end may take: `most` seconds, or less when its deadline is near."""
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    return max(min(most, left - 2 * LAST_WORDS), 0.1) if left else most


def leave_soon(loop: asyncio.AbstractEventLoop | None = None, seconds: float = LEAVING) -> None:
    """End this process in some seconds at the latest, with exit code 0.

    Closing an event loop waits for threads that look up the names of hosts. Nothing can interrupt such a thread, and
    without name servers it takes up to a minute.
    """
    _thread.start_new_thread(_leave, (loop, seconds))


def leave() -> NoReturn:
    """End this process, whose work has ended, with exit code 0.

    The interpreter's own end would collect all garbage first. On a busy machine that takes seconds.
    """
    flush_traces()
    sys.stdout.flush()
    os._exit(0)


def _leave(loop: asyncio.AbstractEventLoop | None, seconds: float) -> None:
    time.sleep(seconds_left(seconds))
    log.warning("ended without waiting", **_unfinished(loop))
    leave()


def _log_last_words(loop: asyncio.AbstractEventLoop | None) -> None:
    time.sleep(SHUTDOWN_DEADLINE - LAST_WORDS)
    log.error("not stopped in time, ending by SIGALRM", **_unfinished(loop))
    faulthandler.unregister(signal.SIGALRM)


def _unfinished(loop: asyncio.AbstractEventLoop | None) -> dict[str, list[str]]:
    threads = [stack for stack in stacks_of_threads() if not stack.startswith(_log_last_words.__name__)]
    return {"tasks": [] if loop is None else stacks_of_tasks(loop), "threads": threads}
