"""A process dies at a place and starts again: nothing is lost, nothing doubled.

For want of time every named place at one of the works that come there, and one in thirty-two of all others, each time
others; `CRASH_POINTS=all`, or `python -m tests.system.crash`, strikes them all.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.system.crash.points import named_places, title
from tests.system.crash.rig import STAGES, Rig, running_rig

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with running_rig(tmp_path_factory.mktemp("crash")) as rig:
        yield rig


@pytest.mark.timeout(900)
@pytest.mark.parametrize("actor", STAGES)
async def test_a_process_that_dies_at_any_place_breaks_no_promise(rig: Rig, actor: str) -> None:
    one_in = 1 if os.environ.get("CRASH_POINTS") == "all" else 32
    coverage = await rig.cover(STAGES[actor], one_in=one_in)
    print(coverage)  # noqa: T201 - the figure, for who runs this with -s
    assert not coverage.broken, coverage


async def test_every_named_place_has_a_name_of_its_own_and_is_reached(rig: Rig) -> None:
    named = named_places()
    assert [name for name, count in Counter(named).items() if count > 1] == []
    reached = {point.place for stage in STAGES.values() for point in (await rig.record(stage))[0]}
    assert set(named) - reached == set()


def test_a_statement_keeps_its_name_whatever_its_parameters_are() -> None:
    one = title("SELECT id FROM inbox WHERE id IN ($1::UUID) AND type = $2::VARCHAR")
    three = title("SELECT id\nFROM inbox\nWHERE id IN ($1::UUID, $2::UUID, $3::UUID) AND type = $4::VARCHAR")
    assert one == three
    assert one.startswith("select inbox [")
    assert one != title("SELECT id FROM inbox WHERE id IN ($1::UUID)")
