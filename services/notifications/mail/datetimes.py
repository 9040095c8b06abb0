"""Times in emails, in the recipient's time zone and language."""

from datetime import datetime, tzinfo

from babel import Locale
from babel.dates import format_date, format_time

from shared.time_zones import zone_label


def format_local_time(time: datetime, locale: Locale, zone: tzinfo) -> str:
    """Format a time in `zone` for readers of `locale`, with the zone's short name."""
    local = time.astimezone(zone)
    date, clock = format_date(local, "medium", locale), format_time(local, "short", locale=locale)
    return f"{date}, {clock} {zone_label(local, locale)}"
