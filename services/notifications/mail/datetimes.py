"""Times in emails, in the recipient's time zone and language."""

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_time

from shared.time_zones import zone_label


def known_zone(names: Iterable[str | None]) -> tzinfo:
    """Return the first of `names` that is a time zone, or UTC."""
    for name in names:
        try:
            return ZoneInfo(name or "")
        except (KeyError, ValueError, OSError):  # not found; not a key; a directory of the database
            continue
    return UTC


def format_local_time(time: datetime, locale: Locale, zone: tzinfo) -> str:
    """Format a time in `zone` for readers of `locale`, with the zone's short name."""
    local = time.astimezone(zone)
    date, clock = format_date(local, "medium", locale), format_time(local, "short", locale=locale)
    return f"{date}, {clock} {zone_label(local, locale)}"
