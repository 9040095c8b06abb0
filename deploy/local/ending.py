"""What ends a run: a signal, a closed terminal, or the end of the `make` that started it."""

import asyncio
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.local.processes import die_with_parent

POLL = 0.5  # seconds between checks of `make`


def stop_event(hurry: Callable[[], None]) -> asyncio.Event:
    """Return an event that is set when the run should end. A second Ctrl-C calls `hurry`."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def interrupted() -> None:
        if stop.is_set():
            hurry()
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it on purpose
        loop.add_signal_handler(signal.SIGHUP, stop.set)
        _watch_terminal(stop)
    if "MAKELEVEL" in os.environ and sys.platform == "linux":
        die_with_parent()
        _watch_make(os.getppid(), stop)
    return stop


def _watch_terminal(stop: asyncio.Event) -> None:
    """Set `stop` when the terminal is closed. The kernel signals only the session leader, which may not pass it on."""
    if sys.platform != "linux" or not os.isatty(sys.stdout.fileno()):
        return
    loop, hangup = asyncio.get_running_loop(), select.epoll()
    hangup.register(sys.stdout.fileno(), 0)  # a hang-up is always reported, no other event is needed

    def hung_up() -> None:
        loop.remove_reader(hangup)
        hangup.close()
        stop.set()

    loop.add_reader(hangup, hung_up)


def _watch_make(make: int, stop: asyncio.Event) -> None:
    """Set `stop` after a SIGINT or SIGHUP to `make` alone, which forwards only SIGTERM and then waits for us.

    While it waits it is inside its signal handler, with that signal blocked.
    """
    loop = asyncio.get_running_loop()
    ending = 1 << (signal.SIGINT - 1) | 1 << (signal.SIGHUP - 1)

    def check() -> None:
        try:
            lines = Path(f"/proc/{make}/status").read_text().splitlines()
        except OSError:
            return  # the kernel signals us when `make` has ended
        blocked = next(int(line.split()[1], 16) for line in lines if line.startswith("SigBlk:"))
        if blocked & ending:
            stop.set()
        elif not stop.is_set():
            loop.call_later(POLL, check)

    check()
