"""One run: a calm phase, faults, a quiet phase until everything is finished, and the verdict."""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from bench.chaos.faults import Fault, World, all_faults
from bench.chaos.history import History
from bench.chaos.nemesis import Nemesis
from bench.chaos.repliers import Inbound, Replier
from bench.chaos.table import rows, show
from bench.chaos.verdict import Verdict
from bench.chaos.watch import Watch
from bench.chaos.writers import Desk, Headers, Writer

CUSTOMERS = [f"customer-{number}" for number in range(1, 21)]
LONG = 600.0  # seconds; longer runs also have faults that last longer than a lease


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parameters of a run; times in seconds. Without `faults`, all faults strike at random."""

    seed: int
    seconds: float = 60.0
    calm: float = 5.0
    writers: int = 8
    conversations: int = 12
    repliers: int = 0
    """Customers' mail servers that send replies to our emails."""
    pause: float = 0.05
    """Maximum pause of a writer or replier before its next request."""
    drain: float = 150.0
    """Maximum time without progress after the faults: longer than a lease and a pause."""
    faults: Callable[[World], Sequence[Fault]] | None = None


@dataclass(frozen=True, kw_only=True)
class System:
    """The system under test, and how to inspect it."""

    title: str
    world: World
    url: str
    headers: Headers
    whole: bool
    """Whether it supports more than posting."""
    records_url: str
    """The URL of the database with the table `notifications`."""
    inbound: Inbound | None
    """Where replies by email go, if it takes any."""
    state: Callable[[], Awaitable[tuple[bool, object]]]
    """Return whether everything is finished, and a measure of progress."""
    compare: Callable[[History], Awaitable[Verdict]]


def plan_from_environment() -> Plan:
    """Read the variables `CHAOS_…`; without `CHAOS_SEED` it is random."""
    seconds = float(os.environ.get("CHAOS_SECONDS", "60"))
    return Plan(
        seed=int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6),
        seconds=seconds,
        calm=min(30, max(5, seconds / 6)),
        writers=int(os.environ.get("CHAOS_WRITERS", "8")),
        conversations=int(os.environ.get("CHAOS_CONVERSATIONS", "12")),
        repliers=int(os.environ.get("CHAOS_REPLIERS", "2")),
        pause=float(os.environ.get("CHAOS_PAUSE", "0.05")),
    )


async def run(plan: Plan, system: System, *, title: str = "") -> list[str]:
    """Run, print the table, and return the names of what is wrong."""
    history = History()
    watch = Watch(history, system.records_url)
    faults = plan.faults(system.world) if plan.faults else all_faults(system.world, long=plan.seconds >= LONG)
    nemesis = Nemesis(system.world, faults, plan.seed, watch.struck)
    watching = asyncio.create_task(watch.run())
    try:
        writing = await _write_under_faults(plan, system, history, nemesis)
        drained = await _drain(plan.drain, system, history)
        await asyncio.sleep(0.5)  # for the last poll of the watch
    finally:
        watching.cancel()
    verdict = await system.compare(history)
    show(
        f"{title or system.title}, seed {plan.seed}",
        rows(history, nemesis, watch, verdict, writing=writing, drained=drained),
    )
    wrong = [name for name, count in verdict.faults.items() if count]
    return [*wrong, *history.odd, *nemesis.mishaps, *([] if drained is not None else ["not finished"])]


async def _write_under_faults(plan: Plan, system: System, history: History, nemesis: Nemesis) -> float:
    """Run the writers, first without faults; return the seconds that they worked."""
    desk = Desk(system.url, history, system.headers, CUSTOMERS, system.whole)
    writers = [
        Writer(desk, "admin" if number % 2 else "customer", f"{plan.seed} {number}", plan.pause)
        for number in range(plan.writers)
    ]
    started = time.monotonic()
    for number in range(plan.conversations):
        await writers[number % len(writers)].open_conversation()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for writer in writers:
            group.create_task(writer.write(stop))
        if system.inbound is not None:
            for number in range(plan.repliers):
                replier = Replier(system.inbound, history, f"{plan.seed} replier {number}", plan.pause)
                group.create_task(replier.write(stop))
        await asyncio.sleep(plan.calm)
        history.calm = False
        group.create_task(nemesis.run(stop))
        await asyncio.sleep(plan.seconds)
        stop.set()
    return time.monotonic() - started


async def _drain(max_idle: float, system: System, history: History) -> float | None:
    """Wait until everything is finished; return the seconds that took, or None when progress stops before."""
    started = last_progress = time.monotonic()
    before: object = None
    while (now := time.monotonic()) - last_progress < max_idle:
        at_end, state = await system.state()
        if at_end and not history.pending:
            return now - started
        if (state, len(history.pending)) != before:
            before, last_progress = (state, len(history.pending)), now
        await asyncio.sleep(0.5)
    return None
