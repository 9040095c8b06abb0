"""The times of a mail, in its recipient's zone and language."""

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_time

from shared.zones import zone_label


def known_zone(names: Iterable[str | None]) -> tzinfo:
    """Return the first of `names` that is a time zone, or UTC."""
    for name in names:
        try:
            return ZoneInfo(name or "")
        except (KeyError, ValueError, OSError):  # not found; not a key; a directory of the database
            continue
    return UTC


def format_moment(moment: datetime, locale: Locale, zone: tzinfo) -> str:
    """Write a moment as a reader of `locale` in `zone` would, with the zone's short name."""
    local = moment.astimezone(zone)
    date, time = format_date(local, "medium", locale), format_time(local, "short", locale=locale)
    return f"{date}, {time} {zone_label(local, locale)}"
