"""How a page writes amounts and numbers."""

import datetime as dt
from decimal import Decimal

import pytest
from babel import Locale
from babel.localedata import locale_identifiers
from babel.numbers import get_decimal_symbol, list_currencies
from babel.support import NullTranslations

from services.conversations.web.localization import Reader
from services.conversations.web.rendering import LOCALE
from shared.translations import Language, find_language


def reader(locale: str) -> Reader:
    return Reader(Language(Locale.parse(locale), NullTranslations()), dt.UTC, dt.datetime.now(dt.UTC))


def amount_in(shown: str, locale: str) -> Decimal:
    """Read an amount back from its digits and its decimal point."""
    whole, _, decimals = shown.rpartition(get_decimal_symbol(locale))
    if not whole:
        whole, decimals = decimals, ""
    digits = ["".join(filter(str.isdecimal, part)) for part in (whole, decimals)]
    return Decimal(".".join([digits[0], digits[1] or "0"]))


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        ("1299.99", "RSD", "RSD1,299.99"),
        ("1299", "RSD", "RSD1,299"),
        ("1299.00", "RSD", "RSD1,299"),
        ("5.50", "JPY", "¥5.50"),
        ("5.5", "JPY", "¥5.5"),
        ("500", "JPY", "¥500"),
        ("59.9", "EUR", "€59.90"),
        ("29.9500", "EUR", "€29.95"),
        ("12.3333333333", "EUR", "€12.3333333333"),
        ("0.005", "USD", "$0.005"),
        ("0.0000000001", "USD", "$0.0000000001"),
        ("-5.00", "USD", "-$5.00"),
        ("0", "USD", "$0.00"),
        ("1.2", "KWD", "KWD1.200"),
        ("10.5", "XYZ", "XYZ10.50"),
        ("123456789012345.1234567891", "USD", "$123,456,789,012,345.1234567891"),
    ],
)
def test_an_amount_is_shown_as_it_was_sent(amount: str, currency: str, shown: str) -> None:
    assert reader("en").money(amount, currency) == shown


@pytest.mark.parametrize("amount", ["1299.99", "0.0049", "123456789012345.1234567891"])
def test_an_amount_is_exact_in_every_language_and_currency(amount: str) -> None:
    for locale in sorted(locale_identifiers())[::9]:
        for currency in ("EUR", "RSD"):
            assert amount_in(reader(locale).money(amount, currency), locale) == Decimal(amount), (locale, currency)
    for currency in list_currencies():
        assert amount_in(reader("de").money(amount, currency), "de") == Decimal(amount), currency


@pytest.mark.parametrize(("number", "shown"), [(2, "2"), (2.5, "2,5"), (-1, "-1"), (1000, "1.000"), (0.125, "0,125")])
def test_a_quantity_is_shown_with_all_of_its_decimals(number: float, shown: str) -> None:
    assert reader("de").number(number) == shown


@pytest.mark.parametrize(
    ("seconds", "english", "german"),
    [
        (0, "0 s", "0 s"),
        (59.4, "59 s", "59 s"),
        (59.5, "1 min", "1 Min."),
        (3_569, "59 min", "59 Min."),
        (3_570, "1 h", "1 Std."),
        (8_040, "2 h 14 min", "2 Std. 14 Min."),
        (86_369, "23 h 59 min", "23 Std. 59 Min."),
        (86_400, "1 d", "1 T"),
        (273_600, "3 d 4 h", "3 T 4 Std."),
        (172_799, "2 d", "2 T"),
        (100_000_000, "1,157 d 10 h", "1.157 T 10 Std."),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, english: str, german: str) -> None:
    for locale, shown in ("en", english), ("de", german):
        language = find_language(LOCALE, [locale])
        assert Reader(language, dt.UTC, dt.datetime.now(dt.UTC)).duration(seconds) == shown
