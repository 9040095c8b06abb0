"""Strike faults in parallel lanes, and record each of them."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress

from bench.chaos.faults import Fault, World
from bench.chaos.watch import Struck

PAUSE = 3.0  # maximum seconds between two faults of a lane


class Nemesis:
    """Runs the lanes. Faults that would interfere with each other share a lane; the seed sets the order within it."""

    def __init__(self, world: World, faults: Sequence[Fault], seed: int, struck: list[Struck]) -> None:
        self.world = world
        self.lanes: dict[str, list[Fault]] = {}
        for fault in faults:
            self.lanes.setdefault(fault.lane, []).append(fault)
        self.seed = seed
        self.struck = struck
        self.held: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.ended: Counter[str] = Counter()
        """Processes that ended by themselves, and were restarted as by a supervisor.

        A worker does if one of its pool processes is killed before Celery has started all.
        """
        self.mishaps: list[str] = []
        """Failures to recover from a fault."""

    async def run(self, stop: asyncio.Event) -> None:
        """Strike until `stop`, then undo everything."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._start_what_ended())
            async with asyncio.TaskGroup() as lanes:
                for name, faults in self.lanes.items():
                    lanes.create_task(self._lane(faults, random.Random(f"{self.seed} {name}"), stop))
            watching.cancel()
        await self._revive()

    async def _lane(self, faults: Sequence[Fault], rng: random.Random, stop: asyncio.Event) -> None:
        weights = [fault.weight for fault in faults]
        while not stop.is_set():
            [fault] = rng.choices(faults, weights)
            async with self.held[fault.holds]:
                struck = Struck(fault.kind, fault.target, time.monotonic())
                self.struck.append(struck)
                try:
                    await fault.strike(rng)
                except (AssertionError, RuntimeError, KeyError) as error:
                    self.mishaps.append(f"{fault.kind}, {fault.target}: {error}")
                struck.ended = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), rng.random() * PAUSE)

    async def _start_what_ended(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            await self._revive()

    async def _revive(self) -> None:
        for name in self.world.processes.ended():
            if self.held[name].locked():
                continue  # a fault holds it, and will start it again
            async with self.held[name]:
                self.ended[name] += 1
                try:
                    await self.world.processes.start(name)
                except (AssertionError, RuntimeError) as error:
                    self.mishaps.append(f"{name} does not start again: {error}")
