"""A time zone's label states its offset, in every zone and in every language of the product."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest
from babel import Locale
from babel.support import NullTranslations

from services.conversations.web import localization
from services.conversations.web.localization import Reader
from services.notifications.mail import message
from services.notifications.mail.datetimes import format_local_time
from shared.time_zones import zone_label
from shared.translations import Language

MONTHS = [(2026, 1), (2026, 7)]
FOLDERS = [Path(message.__file__).parent / "locale", Path(localization.__file__).parent / "locale"]
LOCALES = sorted({path.stem for folder in FOLDERS for path in folder.glob("*.po")} | {"en", "en_CA", "en_GB", "en_IE"})


def label(zone: str, locale: str, year: int, month: int) -> str:
    local = datetime(year, month, 15, 12, tzinfo=UTC).astimezone(ZoneInfo(zone))
    return zone_label(local, Locale.parse(locale))


def stated_offset(name: str) -> timedelta | None:
    """Read the offset that a name such as GMT+05:30 states."""
    for prefix in ("GMT", "UTC"):
        if name.startswith(prefix):
            hours, _, minutes = (name.removeprefix(prefix).replace("\N{MINUS SIGN}", "-") or "+0").partition(":")
            sign = -1 if hours.startswith("-") else 1
            return timedelta(hours=int(hours), minutes=sign * int(minutes or 0))
    return None


@pytest.mark.parametrize("locale", LOCALES)
def test_a_label_states_the_offset_of_every_zone_in_winter_and_summer(locale: str) -> None:
    known, labels = defaultdict(set), defaultdict(set)
    locals_ = [
        datetime(year, month, 15, 12, tzinfo=UTC).astimezone(ZoneInfo(zone))
        for zone in sorted(available_timezones())
        for year, month in MONTHS
    ]
    for local in locals_:
        known[local.tzname()].add(local.utcoffset())
    for local in locals_:
        offset, name = local.utcoffset(), zone_label(local, Locale.parse(locale))
        assert offset == (stated_offset(name) or offset), (local, name)
        assert offset in known.get(name, {offset}), f"{name} is another zone's name in {local.tzinfo}"
        labels[name].add(offset)
    assert [name for name, offsets in labels.items() if len(offsets) > 1] == []


@pytest.mark.parametrize(
    ("zone", "locale", "winter", "summer"),
    [
        # Daylight saving is negative here: by law, summer is the standard time.
        ("Europe/Dublin", "en_IE", "GMT", "IST"),
        ("Europe/Dublin", "en", "GMT", "GMT+01:00"),
        ("Eire", "fr", "GMT", "UTC+01:00"),
        # CLDR's French names are one hour off.
        ("Europe/Athens", "fr", "UTC+02:00", "UTC+03:00"),
        ("Europe/Lisbon", "fr", "UTC", "UTC+01:00"),
        ("Europe/Kaliningrad", "fr", "UTC+02:00", "UTC+02:00"),
        ("Africa/Casablanca", "en", "GMT+01:00", "GMT+01:00"),
        ("Antarctica/Troll", "en_GB", "GMT", "GMT+02:00"),
        ("Australia/Lord_Howe", "en_AU", "LHDT", "LHST"),
        ("Europe/London", "en_GB", "GMT", "BST"),
        ("Europe/Berlin", "de", "MEZ", "MESZ"),
        ("America/New_York", "en", "EST", "EDT"),
        ("Asia/Dhaka", "en_CA", "GMT+06:00", "GMT+06:00"),
        ("Etc/UTC", "fr", "UTC", "UTC"),
    ],
)
def test_a_label_is_the_one_familiar_to_its_readers(zone: str, locale: str, winter: str, summer: str) -> None:
    assert [label(zone, locale, *when) for when in MONTHS] == [winter, summer]


@pytest.mark.parametrize(
    ("zone", "locale", "year", "winter", "summer"),
    [
        ("America/Havana", "fr", 2005, "HECU", "HECU"),  # summer time in the winter, too
        ("America/Havana", "fr", 2008, "HNCU", "HECU"),
        ("Antarctica/Casey", "en_AU", 2023, "GMT+11:00", "AWST"),  # changes of its standard time
        ("Antarctica/Casey", "en_AU", 2010, "GMT+11:00", "AWST"),
        ("Australia/Perth", "en_AU", 2008, "AWDT", "AWST"),
    ],
)
def test_a_label_is_right_in_years_of_unusual_clocks(
    zone: str, locale: str, year: int, winter: str, summer: str
) -> None:
    assert [label(zone, locale, year, month) for month in (1, 7)] == [winter, summer]


@pytest.mark.parametrize(
    ("zone", "year", "month", "shown"),
    [
        ("Africa/Casablanca", 2026, 3, "GMT"),  # Ramadan: the clocks go back
        ("Africa/El_Aaiun", 2026, 3, "GMT"),
        ("Africa/Windhoek", 2017, 7, "GMT+01:00"),  # Namibia had winter time until 2017
        ("Africa/Windhoek", 2017, 1, "CAT"),
        ("Europe/Istanbul", 2015, 1, "GMT+02:00"),
        ("America/New_York", 2026, 3, "GMT-04:00"),
    ],
)
def test_a_label_states_the_offset_at_the_moment(zone: str, year: int, month: int, shown: str) -> None:
    assert label(zone, "en_ZA", year, month) == shown


@pytest.mark.parametrize(
    ("zone", "locale", "name"),
    [
        ("Europe/Dublin", "en", "Ireland Time"),
        ("Asia/Kathmandu", "de", "Nepal (Ortszeit)"),
        ("Europe/Berlin", "de", "Berlin"),
        ("Etc/UTC", "de", "UTC"),
        ("UTC", "en", "UTC"),
        ("Etc/GMT+5", "en", "GMT-05:00"),  # POSIX counts westwards
        ("Antarctica/Troll", "en", "GMT"),
        ("America/Coyhaique", "en", "GMT-03:00"),  # newer than CLDR's city names
    ],
)
def test_a_page_names_its_zone_by_country_city_or_offset(zone: str, locale: str, name: str) -> None:
    language = Language(Locale.parse(locale), NullTranslations())
    assert Reader(language, ZoneInfo(zone), datetime(2026, 1, 15, tzinfo=UTC)).zone_name == name


@pytest.mark.parametrize(("month", "name"), [(1, "GMT"), (7, "IST")])
def test_pages_and_emails_agree_on_irish_summer_and_winter_time(month: int, name: str) -> None:
    zone, locale, moment = ZoneInfo("Europe/Dublin"), Locale("en", "IE"), datetime(2026, month, 15, 12, tzinfo=UTC)
    hour = 12 if month == 1 else 13
    assert format_local_time(moment, locale, zone).endswith(f" 2026, {hour}:00 {name}")
    page = Reader(Language(locale, NullTranslations()), zone, moment)
    assert page.moment(moment).endswith(f" 2026, {hour}:00 {name}")


def test_utc_is_called_utc() -> None:
    assert zone_label(datetime(2026, 1, 1, tzinfo=UTC), Locale("fr")) == "UTC"
