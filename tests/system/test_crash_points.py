"""A process dies at a point and restarts: nothing is lost or duplicated.

To save time, it dies at a random sixteenth of the named places, and at a random one in 256 of all other points.
Worker and sweeper share the places that both reach.
`CRASH_POINTS=all` or `python -m tests.system.crash` covers them all.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.system.crash.points import named_places, title
from tests.system.crash.rig import STAGES, Rig, running_rig

pytestmark = pytest.mark.long

OTHER_TESTS = "".join(
    path.read_text()
    for folder in ("tests/service/inbound", "tests/real_mail", "tests/service/webhooks")
    for path in sorted(Path(folder).glob("test_*.py"))
)


@pytest.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with running_rig(tmp_path_factory.mktemp("crash")) as rig:
        yield rig


@pytest.mark.timeout(900)
@pytest.mark.parametrize("actor", STAGES)
async def test_a_crash_at_any_point_breaks_no_guarantee(rig: Rig, actor: str) -> None:
    one_in = 1 if os.environ.get("CRASH_POINTS") == "all" else 256
    coverage = await rig.cover(STAGES[actor], one_in=one_in)
    print(coverage)  # noqa: T201 - shown with -s
    assert not coverage.broken, coverage


@pytest.mark.timeout(900)
async def test_every_named_point_has_a_unique_name_and_is_reached(rig: Rig) -> None:
    named = named_places()
    assert [name for name, count in Counter(named).items() if count > 1] == []
    reached = {point.place for stage in STAGES.values() for point in (await rig.record(stage))[0]}
    # The other ways in of emails, and webhooks, have tests of their own, which die at each of these.
    others = {name for name in named if name.startswith(("inbound-", "webhook")) and f'"{name}"' in OTHER_TESTS}
    assert set(named) - reached - others == set()


def test_a_statements_name_does_not_depend_on_its_parameters() -> None:
    single = title("SELECT id FROM inbox WHERE id IN ($1::UUID) AND type = $2::VARCHAR")
    three = title("SELECT id\nFROM inbox\nWHERE id IN ($1::UUID, $2::UUID, $3::UUID) AND type = $4::VARCHAR")
    assert single == three
    assert single.startswith("select inbox [")
    assert single != title("SELECT id FROM inbox WHERE id IN ($1::UUID)")
