"""Formatting of times and amounts in the reader's language and time zone."""

import datetime as dt
from copy import copy
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Literal

from babel import Locale
from babel.core import get_global
from babel.dates import format_date, format_skeleton, format_time, format_timedelta, get_timezone_location
from babel.numbers import format_decimal, get_currency_precision

from shared.file_sizes import format_size
from shared.time_zones import zone_label
from shared.translations import Language

_NO_TERRITORY = {"ZZ", "001"}  # unknown, and the world
_HOUR = 60  # minutes
_HOURS_OF_DAY = 24


@dataclass(frozen=True, slots=True)
class Reader:
    """The reader of a page: language, time zone, and the current time."""

    language: Language
    zone: dt.tzinfo
    now: dt.datetime

    @property
    def locale(self) -> Locale:
        """The locale for dates and amounts."""
        return self.language.locale

    def gettext(self, text: str) -> str:
        """Translate a text."""
        return self.language.translations.gettext(text)

    @property
    def zone_name(self) -> str:
        """The name of the time zone: its country, or its city where a country has several zones, or else its offset."""
        key = str(self.zone)
        territory = get_global("zone_territories").get(get_global("zone_aliases").get(key, key), "ZZ")
        if territory in _NO_TERRITORY:
            return zone_label(self.now.astimezone(self.zone), self.locale)
        has_one_zone = len(get_global("territory_zones").get(territory, [])) == 1
        return get_timezone_location(self.zone, locale=self.locale, return_city=not has_one_zone)

    def date_of(self, moment: dt.datetime) -> dt.date:
        """Return the date in the reader's time zone."""
        return moment.astimezone(self.zone).date()

    def day(self, date: dt.date) -> str:
        """Format a date in full."""
        return _date(date, "full", self.locale)

    def time(self, moment: dt.datetime) -> str:
        """Format the time of day."""
        local = moment.astimezone(self.zone)
        return _time(local.hour, local.minute, self.locale)

    def moment(self, moment: dt.datetime) -> str:
        """Format a date and time with the zone, to explain a short time."""
        local = moment.astimezone(self.zone)
        clock = _time(local.hour, local.minute, self.locale)
        return f"{_date(local.date(), 'long', self.locale)}, {clock} {zone_label(local, self.locale)}"

    def brief(self, moment: dt.datetime) -> str:
        """Format a time for a list: the time if it is today, the day if it is this year, else the date."""
        date, today = self.date_of(moment), self.date_of(self.now)
        if date == today:
            return self.time(moment)
        if date.year == today.year:
            return _day_of_year(date, self.locale)
        return _date(date, "medium", self.locale)

    def short_day(self, date: dt.date) -> str:
        """Format a date: the day if it is this year, else with the year."""
        is_this_year = date.year == self.date_of(self.now).year
        return _day_of_year(date, self.locale) if is_this_year else _date(date, "medium", self.locale)

    def duration(self, seconds: float) -> str:
        """Format a duration with its two largest units: 45 s, 12 min, 2 h 14 min, 3 d 4 h."""
        minutes = round(seconds / 60)
        if seconds < 59.5:  # noqa: PLR2004 - rounds to a minute
            return self.gettext("%(seconds)s s") % {"seconds": self.number(round(seconds))}
        if minutes < _HOUR:
            return self.gettext("%(minutes)s min") % {"minutes": minutes}
        hours, minutes = divmod(minutes, _HOUR)
        if hours < _HOURS_OF_DAY:
            text = self.gettext("%(hours)s h %(minutes)s min") if minutes else self.gettext("%(hours)s h")
            return text % {"hours": hours, "minutes": minutes}
        days, hours = divmod(round(seconds / 3600), _HOURS_OF_DAY)
        text = self.gettext("%(days)s d %(hours)s h") if hours else self.gettext("%(days)s d")
        return text % {"days": self.number(days), "hours": hours}

    def age(self, moment: dt.datetime) -> str:
        """Format how long ago something was: 5 min, 3 hr, 2 days."""
        return _age(max(1, round((self.now - moment).total_seconds() / 60)), self.locale)

    def number(self, value: float) -> str:
        """Format a number with all of its decimals."""
        return format_decimal(Decimal(str(value)), locale=self.locale, decimal_quantization=False)

    def size(self, size: int) -> str:
        """Format the size of a file."""
        return format_size(size, self.locale)

    def money(self, amount: str, currency: str) -> str:
        """Format an amount with all significant decimals, and at least those of its currency."""
        number = Decimal(amount)
        pattern = copy(self.locale.currency_formats["standard"])
        decimals = max(_decimals(number), get_currency_precision(currency))
        pattern.frac_prec = (decimals, decimals)
        return str(pattern.apply(number, self.locale, currency=currency, currency_digits=False))


# Babel takes a third of a page with 50 messages, whose dates and times of day are few and repeat.
@lru_cache(maxsize=5000)
def _date(date: dt.date, form: Literal["full", "long", "medium"], locale: Locale) -> str:
    return format_date(date, form, locale)


@lru_cache(maxsize=5000)
def _day_of_year(date: dt.date, locale: Locale) -> str:
    return format_skeleton("MMMd", date, locale=locale)


@lru_cache(maxsize=10_000)
def _time(hour: int, minute: int, locale: Locale) -> str:
    return format_time(dt.time(hour, minute), "short", locale=locale)


@lru_cache(maxsize=10_000)
def _age(minutes: int, locale: Locale) -> str:
    unit: Literal["day", "minute"] = "day" if minutes >= _HOURS_OF_DAY * _HOUR else "minute"
    return format_timedelta(dt.timedelta(minutes=minutes), unit, threshold=1, format="short", locale=locale)


def _decimals(number: Decimal) -> int:
    """Return the number of significant decimals: two for 12.50 and 12.5000, none for 12.00."""
    sent = max(0, -int(number.as_tuple().exponent))
    needed = max(0, -int(number.normalize().as_tuple().exponent))
    return max(needed, min(sent, 2)) if needed else 0
