"""Random faults while writers post: nothing acknowledged is lost, and deliberately broken builds are caught."""

import os
import random

import pytest

from bench.chaos.baseline import plain_celery
from bench.chaos.broken import BROKEN, strike
from bench.chaos.ours import our_system
from bench.chaos.run import Plan, run
from deploy.local.processes import Spawn

SECONDS = float(os.environ.get("CHAOS_SECONDS") or ("12" if "EVERY_CASE" in os.environ else "6"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
pytestmark = pytest.mark.long


@pytest.mark.timeout(SECONDS + 900)  # finishing may take long on a busy machine
async def test_no_fault_loses_duplicates_or_blocks_anything(fork: Spawn) -> None:
    async with our_system(SEED, spawn=fork) as system:
        wrong = await run(Plan(seed=SEED, seconds=SECONDS, writers=6, pause=0.5), system)
    assert not wrong, f"with CHAOS_SEED={SEED}"


@pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="takes a minute; set EVERY_CASE=1")
@pytest.mark.timeout(600)
async def test_a_deliberately_broken_build_is_caught(fork: Spawn) -> None:
    # A random one in each run. `make chaos-broken` runs all.
    name = sorted(BROKEN)[SEED % len(BROKEN)]
    assert BROKEN[name].caught_as in await strike(name, SEED, fork), f"{name}, with CHAOS_SEED={SEED}"


@pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="of the benchmark; set EVERY_CASE=1")
@pytest.mark.timeout(300)
async def test_the_baseline_works_without_faults() -> None:
    async with plain_celery(SEED) as system:
        plan = Plan(seed=SEED, seconds=1, calm=5, writers=2, pause=0.5, drain=30, faults=lambda _: [])
        assert await run(plan, system) == []
