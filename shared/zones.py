"""The short name of a time zone at a moment, such as CEST or GMT+05:30: always one that says the right offset."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from babel import Locale
from babel.core import get_global
from babel.dates import get_timezone_name

Variant = Literal["standard", "daylight"]
_HOUR = timedelta(hours=1)


class _Clocks(NamedTuple):
    """The offsets that most of the zones of a CLDR metazone have, in winter and in summer."""

    standard: timedelta
    daylight: timedelta


def zone_label(local: datetime, locale: Locale) -> str:
    """Name the zone of an aware time: by the short name that readers of `locale` know, or else by its offset.

    The offset decides between a zone's two names. Python's `dst()` does not: it is negative in winter in Dublin, whose
    law calls summer the standard time. A name that says another offset, by CLDR's own data or because the zone has
    changed since, is not used; French data, for one, calls the winter of Athens EEST.
    """
    offset, key = local.utcoffset() or timedelta(), getattr(local.tzinfo, "key", "")
    canonical = get_global("zone_aliases").get(key, key)
    if local.tzinfo is UTC or canonical == "Etc/UTC":
        return "UTC"
    name = _known_names(canonical, local.year, locale).get(offset, "")
    # Names such as "heure : Inde" say no offset, and most languages have short names for their own zones only.
    return name if name.isalpha() else _offset_name(offset, locale)


def _offset_name(offset: timedelta, locale: Locale) -> str:
    # Not by Babel: it writes Newfoundland's -03:30 as GMT-04:30, and nothing as GMT+00:00.
    minutes = offset // timedelta(minutes=1)
    hours = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}" if minutes else ""
    return str(locale.zone_formats["gmt"] % hours).strip()


@lru_cache(maxsize=2000)
def _known_names(key: str, year: int, locale: Locale) -> dict[timedelta, str]:
    """Return the short names of a zone in a year by the offset that they stand for; none when one of them is wrong."""
    metazone = get_global("meta_zones").get(key)
    if metazone is None:
        return {}
    clocks, moment = _clocks(metazone, year), datetime(year, 1, 1, tzinfo=ZoneInfo(key))
    variants: tuple[tuple[timedelta, Variant], ...] = (
        (clocks.daylight, "daylight"),
        (clocks.standard, "standard"),
    )
    names: dict[timedelta, str] = {
        offset: get_timezone_name(moment, "short", locale=locale, zone_variant=variant) for offset, variant in variants
    }
    wrong = any(offset not in _offsets_by_name().get(name, {offset}) for offset, name in names.items())
    return {} if wrong else names


@lru_cache(maxsize=1000)
def _clocks(metazone: str, year: int) -> _Clocks:
    """Compare the zones of a metazone: it has no offset of its own, and one of its zones may have left it."""
    offsets = [_offsets(key, year) for key, zones in get_global("meta_zones").items() if zones == metazone]
    standard = Counter(map(min, offsets)).most_common(1)[0][0]
    summers = Counter(max(both) for both in offsets if min(both) < max(both)).most_common(1)
    return _Clocks(standard, summers[0][0] if summers else standard + _HOUR)


@cache
def _offsets_by_name() -> dict[str, set[timedelta]]:
    """Return what the short names of the time zone database stand for now: EEST for UTC+3, CST for three offsets."""
    found: dict[str, set[timedelta]] = {}
    year = datetime.now(UTC).year
    for key in get_global("meta_zones"):
        for clock, offset in zip(_halves(key, year), _offsets(key, year), strict=True):
            found.setdefault(clock.tzname() or "", set()).add(offset)
    return found


def _halves(key: str, year: int) -> list[datetime]:
    return [datetime(year, month, 1, tzinfo=ZoneInfo(key)) for month in (1, 7)]


def _offsets(key: str, year: int) -> list[timedelta]:
    return [clock.utcoffset() or timedelta() for clock in _halves(key, year)]
