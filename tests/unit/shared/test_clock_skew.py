"""Clock skew is reported, and a slow response is not mistaken for it."""

from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from shared.database.clock_skew import ClockSkewMonitor, measure_skew

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("asked", "answered", "expected"),
    [(0, 1, 0), (-5, 60, 0), (40, 41, 40), (-41, -40, -40), (0, 0, 0)],
)
def test_skew_is_what_the_round_trip_does_not_explain(asked: int, answered: int, expected: float) -> None:
    assert measure_skew(NOON + timedelta(seconds=asked), NOON, NOON + timedelta(seconds=answered)) == expected


def test_skew_is_logged_once_and_so_is_its_end() -> None:
    watch = ClockSkewMonitor()
    with capture_logs() as lines:
        for seconds in (0.0, 31.0, 32.0, -31.0, 29.0, 0.0):
            watch.record(seconds)
    assert [(line["log_level"], line.get("ahead")) for line in lines] == [("warning", 31.0), ("info", None)]
