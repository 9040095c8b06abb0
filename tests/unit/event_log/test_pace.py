"""The relay publishes at once after a quiet time, and waits for more events under load."""

import pytest

from services.conversations.relay import MAX_TASK_PAUSE, TASK_PAUSE, Pace


def test_events_that_are_far_apart_do_not_wait() -> None:
    pace = Pace()
    assert [pace.pause_after(1, number * TASK_PAUSE) for number in range(100)] == [0] * 100


def test_a_few_events_in_a_row_do_not_wait_after_a_quiet_time() -> None:
    pace = Pace()
    for moment in (0.0, 100.0):
        pauses = [pace.pause_after(1, moment) for _ in range(4)]
        assert pauses[:2] == [0, 0]
        assert all(pauses[2:])


def test_under_load_the_pause_has_a_limit() -> None:
    pace, now, waited = Pace(), 0.0, 0.0
    for _ in range(100):  # 100 events a second
        pause = pace.pause_after(max(1, round(waited * 100)), now)
        waited, now = pause + 0.01, now + pause + 0.01
    assert pause == pytest.approx(MAX_TASK_PAUSE)
    assert pace.pause_after(1000, now) == pytest.approx(MAX_TASK_PAUSE)
