"""What ends a run: a signal, a terminal that was closed, or the `make` that started it."""

import asyncio
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.local.processes import die_with_parent

POLL = 0.5  # seconds between two looks at `make`


def stop_event(hurry: Callable[[], None]) -> asyncio.Event:
    """Return an event that is set when the run is to end; a second Ctrl-C calls `hurry`."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def interrupted() -> None:
        if stop.is_set():
            hurry()
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it is ignored, and shall be
        loop.add_signal_handler(signal.SIGHUP, stop.set)
        _watch_terminal(stop)
    if "MAKELEVEL" in os.environ and sys.platform == "linux":
        die_with_parent()
        _watch_make(os.getppid(), stop)
    return stop


def _watch_terminal(stop: asyncio.Event) -> None:
    """Notice a closed terminal ourselves: the kernel signals its session's leader only, who may not pass it on."""
    if sys.platform != "linux" or not os.isatty(sys.stdout.fileno()):
        return
    loop, hangup = asyncio.get_running_loop(), select.epoll()
    hangup.register(sys.stdout.fileno(), 0)  # no event but a hang-up, which needs no asking

    def hung_up() -> None:
        loop.remove_reader(hangup)
        hangup.close()
        stop.set()

    loop.add_reader(hangup, hung_up)


def _watch_make(make: int, stop: asyncio.Event) -> None:
    """Notice a SIGINT or SIGHUP sent to `make` alone: it waits for us then, and passes on a SIGTERM only.

    While it waits so it is in its signal handler, with that signal blocked.
    """
    loop = asyncio.get_running_loop()
    ending = 1 << (signal.SIGINT - 1) | 1 << (signal.SIGHUP - 1)

    def look() -> None:
        try:
            lines = Path(f"/proc/{make}/status").read_text().splitlines()
        except OSError:
            return  # the kernel tells us when it is gone
        blocked = next(int(line.split()[1], 16) for line in lines if line.startswith("SigBlk:"))
        if blocked & ending:
            stop.set()
        elif not stop.is_set():
            loop.call_later(POLL, look)

    look()
