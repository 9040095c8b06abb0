"""Measure how long each process takes to start and its memory: `python -m bench.size`, MINUTES=60, RATE=50.

Import and start, memory at rest, and memory while an admin posts RATE messages per second, each with a notification and
an email; a line every tenth of the time. The last column shows whether it still grows at the end.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

from bench.stage import BODY, Line, Stage, running_stage, talk

MINUTES = float(os.environ.get("MINUTES", "60"))
RATE = float(os.environ.get("RATE", "50"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
TALKS = 20_000
LINES = 8
STEPS = 10
MODULES = {
    "api": "services.conversations.app",
    "notifications-api": "services.notifications.app",
    "relay": "services.conversations.relay",
    "jobs": "services.conversations.jobs",
    "thumbnails": "services.conversations.thumbnails",
    "inbound": "services.notifications.inbound_process",
    "worker": "services.notifications.worker",
    "sweeper": "services.notifications.sweeper",
}
_IMPORT = "import time; begun = time.perf_counter(); import {}; print(time.perf_counter() - begun)"


async def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        async with running_stage(Path(directory), talks=TALKS) as stage:
            for name, module in MODULES.items():
                imports = [await _import(module) for _ in range(ROUNDS)]
                begun = time.perf_counter()
                await stage.product.start(name)
                ready = time.perf_counter() - begun
                print(f"{name:<18} imports {statistics.median(imports):.2f} s, ready after {ready:.2f} s", flush=True)
            await asyncio.sleep(5)
            await _load(stage)


async def _import(module: str) -> float:
    command = (sys.executable, "-c", _IMPORT.format(module))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return float(output)


async def _load(stage: Stage) -> None:
    """Post for MINUTES at a steady rate, and print the memory of all processes at intervals."""
    sizes = [_sizes(stage)]
    print(f"{'messages':>9} " + " ".join(f"{name:>17}" for name in MODULES) + "   MiB of PSS (of RSS)")
    _print_sizes(0, sizes[0])
    posted = 0
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(Line(stage.product.ports["api"])) for _ in range(LINES)]
        for _ in range(STEPS):
            count = int(RATE * MINUTES * 60 / STEPS)
            await asyncio.gather(*(_post(line, index, count // LINES, posted) for index, line in enumerate(lines)))
            posted += count // LINES * LINES
            sizes.append(_sizes(stage))
            _print_sizes(posted, sizes[-1])
    middle = STEPS // 2
    for name in MODULES:
        grown = (sizes[-1][name][0] - sizes[middle][name][0]) / (posted - posted * middle // STEPS) * 10_000
        print(f"{name:<18} {grown / 2**20:+.2f} MiB for each 10,000 messages, over the second half")
    print(f"emails accepted {stage.sink.count()}, waiting {await _waiting(stage)}")


async def _post(line: Line, index: int, count: int, before: int) -> None:
    begun = time.monotonic()
    for number in range(count):
        await asyncio.sleep(begun + number * LINES / RATE - time.monotonic())
        await line.reply(talk((before + number * LINES + index) % TALKS), BODY)


def _sizes(stage: Stage) -> dict[str, tuple[int, int]]:
    """Return the bytes of each process and its children: proportional (PSS) and resident (RSS)."""
    sizes = {}
    for name in MODULES:
        memory = []
        for process in stage.product.family(name):
            try:
                memory.append(process.memory_full_info())
            except psutil.NoSuchProcess:
                continue
        sizes[name] = (sum(used.pss for used in memory), sum(used.rss for used in memory))
    return sizes


def _print_sizes(messages: int, sizes: dict[str, tuple[int, int]]) -> None:
    cells = (f"{f'{pss / 2**20:.0f} ({rss / 2**20:.0f})':>17}" for pss, rss in sizes.values())
    print(f"{messages:>9} " + " ".join(cells), flush=True)


async def _waiting(stage: Stage) -> int:
    return int(
        await stage.notifications.fetchval("select count(*) from emails where state in ('scheduled', 'sending')")
    )


if __name__ == "__main__":
    asyncio.run(main())
