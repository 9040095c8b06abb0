import contextlib
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import StringConstraints, TypeAdapter, ValidationError

from shared.people import Address, LocaleTag, StoreId, ZoneName
from shared.text import OneLine, Text, preview

TEXT: TypeAdapter[str] = TypeAdapter(Annotated[Text, StringConstraints(min_length=1, max_length=10)])
LINE: TypeAdapter[str] = TypeAdapter(OneLine)


@given(st.text(max_size=200))
def test_text_is_kept_as_it_is_between_its_ends_or_refused(value: str) -> None:
    trimmed = value.strip()
    try:
        assert TEXT.validate_python(value) == trimmed
    except ValidationError:
        assert not 1 <= len(trimmed) <= 10 or "\0" in trimmed


def test_length_is_counted_in_characters_after_trimming() -> None:
    assert TEXT.validate_python(" \u2003" + "😀" * 10 + "\n\n") == "😀" * 10
    for value in ("", " \n\t\u00a0\u2003", "x" * 11):
        with pytest.raises(ValidationError):
            TEXT.validate_python(value)


@pytest.mark.parametrize("value", ["\0", "a\0b", "\ud800", "a\udfffb", "\ude00\ud83d", 7, None])
def test_what_no_database_could_store_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        TEXT.validate_python(value)


@pytest.mark.parametrize(
    "separator", ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
)
def test_one_line_has_no_line_break_of_any_kind(separator: str) -> None:
    with pytest.raises(ValidationError):
        LINE.validate_python(f"a{separator}b")
    assert LINE.validate_python(f"a\tb {separator}") == "a\tb"


@given(st.text(), st.integers(1, 200))
def test_a_preview_is_one_line_and_never_longer_than_asked(value: str, length: int) -> None:
    found = preview(value, length)
    assert len(found) <= length
    assert len(found.splitlines()) <= 1
    assert found == found.strip()


@pytest.mark.parametrize(
    ("character", "length", "shown"),
    [
        ("👩‍💻", 10, 3),  # joined by a joiner
        ("👍🏽", 8, 3),  # with a skin tone
        ("❤️", 8, 3),  # with a variation selector
        ("🇩🇪", 8, 3),  # two halves of a flag
        ("🏴󠁧󠁢󠁳󠁣󠁴󠁿", 10, 1),  # a flag of a region
        ("e\u0301", 8, 3),
        ("கி", 8, 3),
        ("क्षि", 10, 2),
        ("กำ", 8, 3),
        ("\u1100\u1161\u11a8", 8, 2),  # Hangul, composed of three
        ("字", 4, 3),
    ],
)
def test_a_preview_never_ends_inside_what_is_seen_as_one_character(character: str, length: int, shown: int) -> None:
    assert preview(character * 20, length) == character * shown + "…"


def test_a_preview_says_when_there_is_more() -> None:
    assert preview(" a\n\n b\tc ") == "a b c"
    assert preview("x" * 140) == "x" * 140
    assert preview("x" * 141) == "x" * 139 + "…"
    assert preview("word " * 100, 7) == "word…"
    assert preview("word " * 100, 6) == "word…"


@given(st.text(max_size=300))
def test_an_id_is_1_to_255_visible_ascii_characters(value: str) -> None:
    good = 1 <= len(value) <= 255 and all("!" <= character <= "~" for character in value)
    try:
        TypeAdapter(StoreId).validate_python(value)
        assert good
    except ValidationError:
        assert not good


PATHS = st.sampled_from(
    ["..", "/", "en", "_", "-", "Europe", "UTC", ".", "\0", "\ud800", "x" * 40, "\n", "posix", "é", "@"]
)


@given(st.text(max_size=40) | st.lists(PATHS, max_size=6).map("".join))
def test_any_text_is_a_locale_zone_and_address_or_is_not(value: str) -> None:
    for kind in (LocaleTag, ZoneName, Address):
        adapter: TypeAdapter[str] = TypeAdapter(kind)
        with contextlib.suppress(ValidationError):  # and nothing else
            assert adapter.validate_python(value)


@pytest.mark.parametrize("value", ["en", "de-AT", "pt_BR", "zh-Hant-TW", "sr-Latn"])
def test_a_locale_is_written_either_way(value: str) -> None:
    assert TypeAdapter(LocaleTag).validate_python(value) == value


@pytest.mark.parametrize("value", ["anna@localhost", "anna@shop.test", "ünï@bücher.example", "a+b@customer.test"])
def test_an_address_of_a_test_domain_or_in_any_script_is_usable(value: str) -> None:
    assert TypeAdapter(Address).validate_python(value) == value


@pytest.mark.parametrize(
    "value", ["", "anna", "@shop.test", "a@b@c.test", "a b@shop.test", "a@shop.test\nBcc: b@shop.test", "a@shop..test"]
)
def test_what_mail_could_not_be_sent_to_is_no_address(value: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Address).validate_python(value)
