"""The times of a mail, in its recipient's zone and language."""

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_time, get_timezone_gmt, get_timezone_name


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
    zone_name = get_timezone_name(local, width="short", locale=locale)
    if not zone_name.isalpha():  # most languages have short names for their own zones only
        zone_name = get_timezone_gmt(local, "long", locale=locale)
    return f"{date}, {time} {zone_name}"
