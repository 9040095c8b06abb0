"""Cycles: when a conversation counts as opened, replied to, resolved, and opened again."""

from datetime import UTC, datetime, timedelta

import pytest

from services.conversations.reports.cycles import Cycle, Step, advance
from services.conversations.rules import Side, Status

START = datetime(2026, 11, 2, 9, tzinfo=UTC)
ASKED = Cycle(1, 0, START)


def at(minutes: int) -> datetime:
    return START + timedelta(minutes=minutes)


def steps_of(story: str) -> list[Step]:
    """Return steps: c and a are messages of the two sides, x a removed one of an admin, others a status by hand."""
    statuses = {"r": Status.RESOLVED, "k": Status.CLOSED, "o": Status.OPEN, "w": Status.AWAITING_USER}
    steps, number = [], 0
    for minute, sign in enumerate(story):
        if sign in statuses:
            steps.append(Step(number, at(minute), "sam", status=statuses[sign]))
        else:
            number += 1
            side = Side.CUSTOMER if sign == "c" else Side.ADMIN
            steps.append(Step(number, at(minute), "anna" if sign == "c" else "kim", side, sign == "x"))
    return steps


def brief(cycles: list[Cycle]) -> str:
    """Return when each cycle was opened, replied to and resolved, in minutes."""

    def minutes(moment: datetime | None) -> str:
        return "-" if moment is None else str((moment - START) // timedelta(minutes=1))

    return " ".join(f"{minutes(c.opened_at)},{minutes(c.replied_at)},{minutes(c.resolved_at)}" for c in cycles)


STORIES = [
    ("c", "0,-,-"),
    ("cca", "0,2,-"),
    ("cxa", "0,2,-"),
    ("car", "0,1,2"),
    ("cark", "0,1,2"),
    ("cr", "0,-,1"),
    ("crow", "0,-,-"),
    ("caror", "0,1,4"),
    ("carcakc", "0,1,2 3,4,5 6,-,-"),
    ("caraac", "0,1,2 5,-,-"),
    ("caraw", "0,1,-"),
    ("ra", "0,1,0"),
    ("rc", "0,-,0 1,-,-"),
    ("caccacrccc", "0,1,6 7,-,-"),
]


@pytest.mark.parametrize(("story", "cycles"), STORIES)
def test_a_story_has_these_cycles(story: str, cycles: str) -> None:
    assert brief(advance(ASKED, steps_of(story))) == cycles


@pytest.mark.parametrize(("story", "cycles"), STORIES)
def test_a_story_told_in_parts_with_repetition_has_the_same_cycles(story: str, cycles: str) -> None:
    steps = steps_of(story)
    for told in range(len(steps) + 1):
        *before, last = advance(ASKED, steps[:told])
        # What is read next: all messages after the last one, and the changes of the status after that message.
        more = [step for step in steps if step.number > last.number or (step.status and step.number == last.number)]
        assert brief([*before, *advance(last, more)]) == cycles


def test_what_an_admin_opened_has_no_first_reply_until_the_customer_reopens_it() -> None:
    opened = Cycle(1, 0, START, opened_by="sam")
    cycles = advance(opened, steps_of("acarca"))
    assert brief(cycles) == "0,-,3 4,5,-"
    assert [(cycle.opened_by, cycle.replied_by, cycle.resolved_by) for cycle in cycles] == [
        ("sam", None, "sam"),
        (None, "kim", None),
    ]
