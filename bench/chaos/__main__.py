"""`make chaos`: faults at random while people write, then the verdict; exit code 1 when anything is wrong.

`CHAOS_SECONDS=3600 CHAOS_SEED=7 make chaos` is an hour, with the same faults in the same order within each lane.
`CHAOS_LOGS=DIR` keeps what the processes wrote. `--broken` runs the builds that are broken on purpose instead, each of
which has to be caught.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from bench.chaos.broken import BROKEN, strike
from bench.chaos.ours import our_system
from bench.chaos.run import Plan, run

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
LOGS = os.environ.get("CHAOS_LOGS")
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


async def nemesis() -> int:
    """Run against the product, and return the exit code."""
    print(f"seed {SEED}, {SECONDS:.0f} s of faults", flush=True)
    async with our_system(SEED, logs=Path(LOGS) if LOGS else None) as system:
        wrong = await run(Plan(seed=SEED, seconds=SECONDS, calm=min(30, max(5, SECONDS / 6))), system)
    for name in wrong:
        print(f"FAULT: {name}")
    return 1 if wrong else 0


async def broken() -> int:
    """Run against every broken build; it is a fault when one is not caught."""
    caught = {name: build.caught_as in await strike(name, SEED) for name, build in BROKEN.items()}
    for name, is_caught in caught.items():
        print(f"{name}: {'caught' if is_caught else 'NOT CAUGHT'}")
    return 0 if all(caught.values()) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(broken() if "--broken" in sys.argv else nemesis()))
