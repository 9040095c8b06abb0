"""Charts: lines with gaps, dots between gaps, and scales that end at a round value."""

import pytest

from services.conversations.web.charts import count_chart, duration_chart


def test_a_line_goes_from_left_to_right_and_up_to_the_top() -> None:
    chart = count_chart([[0, 5, 10]])
    assert (chart.top, list(chart.paths)) == (10, ["M0 100 L150 50 L300 0"])


def test_a_day_without_a_value_is_a_gap_and_a_day_between_two_gaps_a_dot() -> None:
    chart = duration_chart([[None, 30, None, 60, 0, None]])
    assert (list(chart.paths), list(chart.dots)) == (["M180 0 L240 100"], ["M60 50h0"])


def test_a_single_day_is_a_dot_and_no_value_at_all_is_empty() -> None:
    assert list(count_chart([[1]]).dots) == ["M0 0h0"]
    chart = duration_chart([[None, None], []])
    assert (chart.is_empty, list(chart.paths), list(chart.dots)) == (True, ["", ""], ["", ""])


@pytest.mark.parametrize(("highest", "top"), [(0, 1), (1, 1), (2, 2), (3, 5), (6, 10), (11, 20), (21, 50), (99, 100)])
def test_counts_end_at_one_two_or_five_with_zeros(highest: float, top: float) -> None:
    assert count_chart([[highest]]).top == top


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 5), (61, 120), (3_601, 7_200), (86_400, 86_400), (31 * 86_400, 60 * 86_400)]
)
def test_durations_end_at_a_unit_of_time(highest: float, top: float) -> None:
    assert duration_chart([[highest]]).top == top
