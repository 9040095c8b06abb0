"""A supervisor that keeps a set of child processes running, and leaves none behind."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from deploy.local.processes import Child, Record, end, how_it_ended, kill_group, last_lines, spawn

FIRST_PAUSE = 0.5  # seconds before a crashed child is restarted; doubled at each crash
LONGEST_PAUSE = 30.0
STEADY = 60.0  # seconds of running after which the pause starts over
POLL = 0.05

Say = Callable[[str], None]


class StartError(Exception):
    """A child that did not start. `str()` is a message for a person."""


@dataclass
class _Running:
    child: Child
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ready: bool = False
    failure: str | None = None  # how it ended before it was ever ready
    keeper: asyncio.Task[None] | None = None


class Supervisor:
    """Starts children in stages, restarts them when they crash, and stops the stages in reverse order."""

    def __init__(self, record: Record, say: Say) -> None:
        self._record = record
        self._say = say
        self._stages: list[list[_Running]] = []
        self._alive: set[int] = set()

    async def start(self, *children: Child, within: float) -> None:
        """Start children together as a stage. Raise `StartError` if they are not ready within `within` seconds."""
        stage = [_Running(child) for child in children]
        self._stages.append(stage)
        for running in stage:
            running.keeper = asyncio.create_task(self._keep(running))
        await asyncio.gather(*(self._wait_until_ready(running, within) for running in stage))

    async def run(self, child: Child) -> None:
        """Run a child to its end. Raise `StartError` if it fails."""
        process = await self._spawn(child)
        try:
            status = await process.wait()
        finally:
            # Also when this task is cancelled.
            await end(process, child.stop_signal, child.grace)
            self._alive.discard(process.pid)
        if status != 0:
            raise StartError(f"{child.name} {how_it_ended(status)}:{last_lines(child.log)}")

    async def stop(self) -> None:
        """Stop all children, the last stage first. Return when none is left."""
        for stage in reversed(self._stages):
            for running in stage:
                running.stop.set()
            await asyncio.gather(*(running.keeper for running in stage if running.keeper))
        self._record.clear()

    def kill(self) -> None:
        """Kill every child, so that `stop()` has nothing to wait for."""
        for pid in self._alive:
            kill_group(pid)

    async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
        process = await spawn(child)
        self._alive.add(process.pid)
        self._record.add(child.name, process.pid)
        return process

    async def _keep(self, running: _Running) -> None:
        child, pause, loop = running.child, FIRST_PAUSE, asyncio.get_running_loop()
        while not running.stop.is_set():
            began = loop.time()
            try:
                process = await self._spawn(child)
            except OSError as error:
                running.failure = f"could not be run ({error.strerror})"
                return
            crashed = await _ends_before(process, running.stop)
            await end(process, child.stop_signal, child.grace)  # after a crash: the processes that it started
            self._alive.discard(process.pid)
            if not crashed:
                return
            ended = how_it_ended(process.returncode or 0)
            if not running.ready:
                running.failure = ended
                return
            if loop.time() - began > STEADY:
                pause = FIRST_PAUSE
            self._say(f"{child.name} {ended}; restarting in {pause:g} s ({child.log}){last_lines(child.log)}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(running.stop.wait(), pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _wait_until_ready(self, running: _Running, within: float) -> None:
        child, loop = running.child, asyncio.get_running_loop()
        deadline = loop.time() + within
        while not await child.ready():
            if running.failure:
                raise StartError(f"{child.name} {running.failure} while starting:{last_lines(child.log)}")
            if loop.time() > deadline:
                raise StartError(f"{child.name} is not ready after {within:g} s:{last_lines(child.log)}")
            await asyncio.sleep(POLL)
        running.ready = True


async def _ends_before(process: asyncio.subprocess.Process, stop: asyncio.Event) -> bool:
    """Return True when the process ends by itself, and False when it is asked to stop before."""
    ended, stopped = asyncio.create_task(process.wait()), asyncio.create_task(stop.wait())
    await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    for task in (ended, stopped):
        task.cancel()
    return not stop.is_set()
