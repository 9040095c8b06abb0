"""Clocks that are apart are told of, and a slow answer is not taken for one."""

from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from shared.clock_skew import ClockSkewMonitor, measure_skew

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("asked", "answered", "expected"),
    [(0, 1, 0), (-5, 60, 0), (40, 41, 40), (-41, -40, -40), (0, 0, 0)],
)
def test_a_clock_is_ahead_by_what_the_way_does_not_explain(asked: int, answered: int, expected: float) -> None:
    assert measure_skew(NOON + timedelta(seconds=asked), NOON, NOON + timedelta(seconds=answered)) == expected


def test_clocks_that_are_apart_are_told_of_once_and_when_they_agree_again() -> None:
    watch = ClockSkewMonitor()
    with capture_logs() as lines:
        for seconds in (0.0, 31.0, 32.0, -31.0, 29.0, 0.0):
            watch.record(seconds)
    assert [(line["log_level"], line.get("ahead")) for line in lines] == [("warning", 31.0), ("info", None)]
