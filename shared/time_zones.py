"""Time zones, and their short names at a given time, such as CEST or GMT+05:30, always with the correct offset."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache, lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from babel import Locale
from babel.core import get_global
from babel.dates import get_timezone_name

Variant = Literal["standard", "daylight"]
_HOUR = timedelta(hours=1)


class _Clocks(NamedTuple):
    """The offsets of most zones of a CLDR metazone, in winter and in summer."""

    standard: timedelta
    daylight: timedelta


def known_zone(names: Iterable[str | None]) -> tzinfo:
    """Return the first of `names` that is a time zone on this machine, or UTC."""
    for name in names:
        try:
            return ZoneInfo(name or "")
        except (KeyError, ValueError, OSError):  # not found; not a key; a directory of the database
            continue
    return UTC


def zone_label(local: datetime, locale: Locale) -> str:
    """Return the zone of an aware time: the short name that readers of `locale` know, else the offset.

    The offset selects between a zone's two names, because `dst()` does not: in Dublin, where summer time is the legal
    standard time, it is negative in winter. Names that stand for another offset are not used: CLDR's data has errors
    (French calls the winter of Athens EEST), and zones change.
    """
    offset, key = _offset(local), getattr(local.tzinfo, "key", "")
    canonical = get_global("zone_aliases").get(key, key)
    if local.tzinfo is UTC or canonical == "Etc/UTC":
        return "UTC"
    name = _known_names(canonical, local.year, locale).get(offset, "")
    # Names such as "heure : Inde" have no offset. Most languages have short names only for their own zones.
    return name if name.isalpha() else _offset_name(offset, locale)


def _offset_name(offset: timedelta, locale: Locale) -> str:
    # Without Babel, which writes Newfoundland's -03:30 as GMT-04:30, and no offset as GMT+00:00.
    minutes = offset // timedelta(minutes=1)
    hours = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}" if minutes else ""
    return str(locale.zone_formats["gmt"] % hours).strip()


@lru_cache(maxsize=2000)
def _known_names(key: str, year: int, locale: Locale) -> dict[timedelta, str]:
    """Return the short names of a zone in a year by their offsets; none if one of them is wrong."""
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
    is_wrong = any(offset not in _offsets_by_name().get(name, {offset}) for offset, name in names.items())
    return {} if is_wrong else names


@lru_cache(maxsize=1000)
def _clocks(metazone: str, year: int) -> _Clocks:
    """Return the offsets of most zones of a metazone. It has none itself, and some of its zones may have left it."""
    zones = [_halves(key, year) for key, zones in get_global("meta_zones").items() if zones == metazone]
    standard = Counter(min(map(_standard_offset, halves)) for halves in zones).most_common(1)[0][0]
    summers = Counter(max(map(_offset, halves)) for halves in zones if any(map(datetime.dst, halves))).most_common(1)
    return _Clocks(standard, summers[0][0] if summers else standard + _HOUR)


@cache
def _offsets_by_name() -> dict[str, set[timedelta]]:
    """Return the current offsets of the time zone database's short names: one for EEST, three for CST."""
    offsets: dict[str, set[timedelta]] = {}
    year = datetime.now(UTC).year
    for key in get_global("meta_zones"):
        for clock in _halves(key, year):
            offsets.setdefault(clock.tzname() or "", set()).add(_offset(clock))
    return offsets


def _halves(key: str, year: int) -> list[datetime]:
    return [datetime(year, month, 1, tzinfo=ZoneInfo(key)) for month in (1, 7)]


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta()


def _standard_offset(local: datetime) -> timedelta:
    """Return the offset without daylight saving, which Cuba once kept through a winter."""
    return _offset(local) - max(local.dst() or timedelta(), timedelta())
