"""Test settings: few, deterministic Hypothesis examples, but many random ones in `make verify`; the order of tests."""

import gc
import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from deploy.local import ports, valkey
from deploy.local.processes import Spawn
from tests.helpers.certificates import share_certificates
from tests.system.helpers.forks import forking

BROWSER = "tests/browser/"
REAL_MAIL = "tests/real_mail/"
ACCESS = "tests/service/access/"
SYSTEM = "tests/system/"
UNIT = "tests/unit/"

# A deadline for each example would be a timed assertion, which fails on a busy machine.
settings.register_profile(
    "quick", max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("verify", settings.get_profile("quick"), max_examples=500, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

share_certificates()

if redis_server := os.environ.get("REDIS_SERVER", ""):  # a program that `make verify` tests in Valkey's place
    valkey._program = lambda: Path(redis_server)  # noqa: SLF001 - the place to replace it


def pytest_configure() -> None:
    """Give each process of `make test` ports of its own, or it takes those of a server that a test has stopped."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        number, count = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        ports._CHOICE = ports._CHOICE[number::count]  # noqa: SLF001 - the place to narrow it


class SharedServers(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """Hands tests to the processes of `make test`; those that share servers or data to one, which makes them once."""

    def _split_scope(self, nodeid: str) -> str:
        """Return what runs in one process: the tests of some folders, a file of others, a single test of the rest."""
        for folder in (BROWSER, REAL_MAIL, ACCESS):
            if nodeid.startswith(folder):
                return folder
        return nodeid.partition("::")[0] if nodeid.startswith((SYSTEM, UNIT)) else nodeid


@pytest.hookimpl(optionalhook=True)  # pytest refuses an unknown hook when xdist is switched off
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharedServers:
    """Return the scheduler. xdist's own groups have no effect with this pytest: `findings/xdist-groups-nothing.sh`."""
    return SharedServers(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for garbage only after the tests are collected, and not among them: that took a fifth of the CPU."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start what takes longest first, so that no process runs it alone at the end."""
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    if item.nodeid.startswith((BROWSER, REAL_MAIL, SYSTEM)):
        return 0 if item.nodeid.startswith(BROWSER) or item.get_closest_marker("long") else 1
    return 2 if item.get_closest_marker("long") else 3


@pytest.fixture(scope="session")
async def fork(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Spawn]:
    """Starts processes of the product at little cost."""
    async with forking(tmp_path_factory.mktemp("forks")) as fork:
        yield fork
