"""Where the tasks and threads of this process are in the code, for a line of the log.

It contains names of files and functions only, and no values: those are people's text and secrets.
"""

import asyncio
import gc
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import AsyncGeneratorType, FrameType
from typing import Any, Final

PLACES: Final = 8  # of a task or thread: the innermost ones
DIFFERENT: Final = 20  # tasks or threads; the most frequent ones


def stacks_of_tasks(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Return where the tasks of an event loop are, outermost first. May be called from another thread."""
    return _counted(_join(_await_chain(task.get_coro())) for task in asyncio.all_tasks(loop))


def stacks_of_threads() -> list[str]:
    """Return where the other threads are, outermost first."""
    return _counted(
        _join(reversed([*islice(map(_place, _callers(frame)), PLACES)]))
        for thread, frame in sys._current_frames().items()  # noqa: SLF001 - documented, for such debugging
        if thread != threading.get_ident()
    )


def _await_chain(awaited: Any) -> Iterator[str]:
    """Yield the places of a coroutine and of what it awaits, and then the kind of the object that it waits for."""
    while awaited is not None:
        prefix = next((prefix for prefix in ("cr", "gi", "ag") if hasattr(awaited, f"{prefix}_frame")), None)
        if prefix is None:
            # A step of an asynchronous generator has no public reference to it.
            generators = [each for each in gc.get_referents(awaited) if isinstance(each, AsyncGeneratorType)]
            if not generators:
                yield type(awaited).__name__
                return
            awaited, prefix = generators[0], "ag"
        if frame := getattr(awaited, f"{prefix}_frame"):
            yield _place(frame)
        awaited = getattr(awaited, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{frame.f_code.co_name} ({path.parent.name}/{path.name}:{frame.f_lineno})"


def _join(places: Iterable[str]) -> str:
    return " > ".join([*places][-PLACES:])


def _counted(stacks: Iterable[str]) -> list[str]:
    found = Counter(stacks).most_common()
    listed = [f"{count} times {stack}" if count > 1 else stack for stack, count in found[:DIFFERENT]]
    return [*listed, f"and {len(found) - DIFFERENT} others"] if len(found) > DIFFERENT else listed
