"""How a page tells times and amounts to who reads it: in their language and in their time zone."""

import datetime as dt
from copy import copy
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from babel import Locale
from babel.core import get_global
from babel.dates import format_date, format_skeleton, format_time, format_timedelta, get_timezone_location
from babel.numbers import format_decimal, get_currency_precision

from shared.translations import Language
from shared.zones import zone_label

NOWHERE = {"ZZ", "001"}  # an unknown region, the world
_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a page: their language, their zone, and when."""

    language: Language
    zone: dt.tzinfo
    now: dt.datetime

    @property
    def locale(self) -> Locale:
        """Return how dates and amounts are written."""
        return self.language.locale

    def gettext(self, text: str) -> str:
        """Return how the reader's language says something."""
        return self.language.translations.gettext(text)

    @property
    def zone_name(self) -> str:
        """Name the zone that all times of a page are in: by its place, or by its offset if it has none."""
        key = str(self.zone)
        if get_global("zone_territories").get(get_global("zone_aliases").get(key, key), "ZZ") in NOWHERE:
            return zone_label(self.now.astimezone(self.zone), self.locale)
        return get_timezone_location(self.zone, locale=self.locale)

    def date_of(self, moment: dt.datetime) -> dt.date:
        """Return the day on which it is for the reader."""
        return moment.astimezone(self.zone).date()

    def day(self, date: dt.date) -> str:
        """Write a day out."""
        return format_date(date, "full", locale=self.locale)

    def time(self, moment: dt.datetime) -> str:
        """Write the time of day."""
        return format_time(moment.astimezone(self.zone), "short", locale=self.locale)

    def moment(self, moment: dt.datetime) -> str:
        """Write day and time out, with the zone: what a short time means."""
        local = moment.astimezone(self.zone)
        return f"{format_date(local, 'long', self.locale)}, {self.time(moment)} {zone_label(local, self.locale)}"

    def brief(self, moment: dt.datetime) -> str:
        """Write what a list has room for: today the time, this year the day, else the date."""
        date, today = self.date_of(moment), self.date_of(self.now)
        if date == today:
            return self.time(moment)
        if date.year == today.year:
            return format_skeleton("MMMd", date, locale=self.locale)
        return format_date(date, "medium", locale=self.locale)

    def age(self, moment: dt.datetime) -> str:
        """Write how long ago something was: 5 min, 3 hr, 2 days."""
        passed = max(self.now - moment, dt.timedelta(minutes=1))
        unit: Literal["day", "minute"] = "day" if passed >= _DAY else "minute"
        return format_timedelta(passed, unit, threshold=1, format="short", locale=self.locale)

    def number(self, value: float) -> str:
        """Write a number, with all of its decimals."""
        return format_decimal(Decimal(str(value)), locale=self.locale, decimal_quantization=False)

    def money(self, amount: str, currency: str) -> str:
        """Write an amount with all the decimals that the store sent, and at least as many as its currency has."""
        number = Decimal(amount)
        pattern = copy(self.locale.currency_formats["standard"])
        decimals = max(_decimals(number), get_currency_precision(currency))
        pattern.frac_prec = (decimals, decimals)
        return str(pattern.apply(number, self.locale, currency=currency, currency_digits=False))


def _decimals(number: Decimal) -> int:
    """Return how many decimals say something: two of 12.50 and of 12.5000, none of 12.00."""
    sent = max(0, -int(number.as_tuple().exponent))
    needed = max(0, -int(number.normalize().as_tuple().exponent))
    return max(needed, min(sent, 2)) if needed else 0
