"""Test settings: few, deterministic Hypothesis examples, but many random ones in `make verify`; the order of tests."""

import os

import pytest
from hypothesis import HealthCheck, settings

# A deadline for each example would be a timed assertion, which fails on a busy machine.
settings.register_profile(
    "quick", max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("verify", settings.get_profile("quick"), max_examples=500, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


SERVERS = {"ports", "product", "rig", "servers", "standby", "store"}
"""Fixtures of a module that start processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that share servers in one process of `make test`, which would otherwise start them in each.

    Start these and the longest first, so that no process runs them alone at the end.
    """
    for item in items:
        if item.nodeid.startswith("tests/browser/"):
            item.add_marker(pytest.mark.xdist_group("browser"))
        elif SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    group = item.get_closest_marker("xdist_group")
    if group is not None and group.args == ("browser",):
        return 0
    return 1 if item.get_closest_marker("long") else 2 if group else 3
