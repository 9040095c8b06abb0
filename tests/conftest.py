"""Test settings: few, deterministic Hypothesis examples by default; many random ones in `make verify`."""

import os

import pytest
from hypothesis import HealthCheck, settings

# A deadline for each example would be a timed assertion, which fails on a busy machine.
settings.register_profile(
    "quick", max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("verify", settings.get_profile("quick"), max_examples=500, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that no process runs them alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
