"""When emails to admins wait: quiet hours and digests on the days when clocks change, in any zone."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from services.notifications.delivery.timing import QuietHours, Timing, find_wait
from services.notifications.rules import Reason

DUBLIN, VIENNA, NEW_YORK = (ZoneInfo(name) for name in ("Europe/Dublin", "Europe/Vienna", "America/New_York"))
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def quiet(start: str, end: str) -> Timing:
    return Timing(quiet=QuietHours(time.fromisoformat(start), time.fromisoformat(end)))


@pytest.mark.parametrize(
    ("zone", "hours", "now", "until"),
    [
        (UTC, ("22:00", "07:00"), "2026-06-01 21:59", None),
        (UTC, ("22:00", "07:00"), "2026-06-01 22:00", "2026-06-02 07:00"),
        (UTC, ("22:00", "07:00"), "2026-06-02 06:59", "2026-06-02 07:00"),
        (UTC, ("22:00", "07:00"), "2026-06-02 07:00", None),
        (UTC, ("12:00", "13:00"), "2026-06-02 12:30", "2026-06-02 13:00"),
        (UTC, ("00:00", "06:00"), "2026-06-02 23:59", None),
        (VIENNA, ("22:00", "07:00"), "2026-06-01 20:00", "2026-06-02 05:00"),
        (NEW_YORK, ("22:00", "07:00"), "2026-06-02 02:00", "2026-06-02 11:00"),
        # Clocks go forward, 01:00 to 02:00 in Dublin: the night is an hour shorter, and has no 01:30.
        (DUBLIN, ("22:00", "07:00"), "2026-03-28 22:00", "2026-03-29 06:00"),
        (DUBLIN, ("22:00", "01:30"), "2026-03-28 23:00", "2026-03-29 01:30"),
        # Clocks go back, 02:00 to 01:00 in Dublin: an hour longer, and 01:30 comes twice.
        (DUBLIN, ("22:00", "07:00"), "2026-10-24 21:00", "2026-10-25 07:00"),
        (DUBLIN, ("22:00", "01:30"), "2026-10-24 23:00", "2026-10-25 00:30"),
        (DUBLIN, ("22:00", "01:30"), "2026-10-25 01:00", None),
    ],
)
def test_emails_wait_for_the_end_of_quiet_hours(
    zone: ZoneInfo, hours: tuple[str, str], now: str, until: str | None
) -> None:
    wait = find_wait(quiet(*hours), zone, at(now), LONG_AGO, digest=False)
    assert wait == ((at(until), Reason.QUIET_HOURS) if until else None)


@pytest.mark.parametrize(
    ("zone", "hour", "begun", "sent"),
    [
        (UTC, "08:00", "2026-06-01 07:59", "2026-06-01 08:00"),
        (UTC, "08:00", "2026-06-01 08:00", "2026-06-02 08:00"),
        (VIENNA, "00:00", "2026-06-01 12:00", "2026-06-01 22:00"),
        (NEW_YORK, "20:00", "2026-06-01 23:30", "2026-06-02 00:00"),
        (DUBLIN, "08:00", "2026-03-28 12:00", "2026-03-29 07:00"),
        (DUBLIN, "01:30", "2026-03-28 12:00", "2026-03-29 01:30"),  # skipped
        (DUBLIN, "08:00", "2026-10-24 12:00", "2026-10-25 08:00"),
        (DUBLIN, "01:30", "2026-10-24 12:00", "2026-10-25 00:30"),  # the first of two
        (DUBLIN, "01:30", "2026-10-25 00:30", "2026-10-26 01:30"),  # once a day
    ],
)
def test_a_digest_waits_for_the_next_time_of_its_hour_or_is_sent_late(
    zone: ZoneInfo, hour: str, begun: str, sent: str
) -> None:
    timing, due = Timing(digest_at=time.fromisoformat(hour)), at(sent)
    for minutes in (1, 30):
        now = max(due - timedelta(minutes=minutes), at(begun))
        if now < due:
            assert find_wait(timing, zone, now, at(begun), digest=True) == (due, Reason.DIGEST)
    for late in (timedelta(), timedelta(hours=5), timedelta(days=3)):  # no process was running
        assert find_wait(timing, zone, due + late, at(begun), digest=True) is None
    assert find_wait(timing, zone, at(begun), at(begun), digest=False) is None, "one that began before the wish"


def test_a_digest_within_quiet_hours_waits_for_their_end() -> None:
    timing = Timing(QuietHours(time(22), time(7)), time(6))
    wait = find_wait(timing, UTC, at("2026-06-02 06:00"), at("2026-06-01 12:00"), digest=True)
    assert wait == (at("2026-06-02 07:00"), Reason.QUIET_HOURS)
