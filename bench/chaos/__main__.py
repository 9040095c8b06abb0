"""`make chaos`: random faults while writers post, then the verdict; exit code 1 when anything is wrong.

`CHAOS_SECONDS=3600 CHAOS_SEED=7 make chaos` runs for an hour, with a fixed order of faults within each lane.
`CHAOS_WRITERS`, `CHAOS_REPLIERS` and `CHAOS_PAUSE` set the rate of posts and of replies by email, of which each of
`CHAOS_CONVERSATIONS` takes 19; `CHAOS_LOGS=DIR` keeps the processes' logs. `--broken` runs
the deliberately broken builds instead, each of which has to be caught.
"""

import asyncio
import os
import sys
from pathlib import Path

from bench.chaos.broken import BROKEN, strike
from bench.chaos.ours import our_system
from bench.chaos.run import plan_from_environment, run
from tests.system.helpers.product import PROCESSES

LOGS = os.environ.get("CHAOS_LOGS")
PLAN = plan_from_environment()


async def nemesis() -> int:
    """Run against the product; return the exit code."""
    print(f"seed {PLAN.seed}, {PLAN.seconds:.0f} s of faults", flush=True)
    names = (*PROCESSES, "jobs-2")  # one stands by while the other sends webhooks
    async with our_system(PLAN.seed, names=names, logs=Path(LOGS) if LOGS else None) as system:
        wrong = await run(PLAN, system)
    for name in wrong:
        print(f"FAULT: {name}")
    return 1 if wrong else 0


async def broken() -> int:
    """Run against every broken build; return 1 when one is not caught."""
    caught = {name: build.caught_as in await strike(name, PLAN.seed) for name, build in BROKEN.items()}
    for name, is_caught in caught.items():
        print(f"{name}: {'caught' if is_caught else 'NOT CAUGHT'}")
    return 0 if all(caught.values()) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(broken() if "--broken" in sys.argv else nemesis()))
