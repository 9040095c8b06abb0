import contextlib
from itertools import dropwhile
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import StringConstraints, TypeAdapter, ValidationError

from shared.people import Address, LocaleTag, StoreId, ZoneName
from shared.text import MultiLine, Name, OneLine, is_visible, preview, printable

TEXT: TypeAdapter[str] = TypeAdapter(Annotated[MultiLine, StringConstraints(min_length=1, max_length=10)])
LINE: TypeAdapter[str] = TypeAdapter(OneLine)


@given(st.text(max_size=200))
def test_text_is_trimmed_and_otherwise_kept_or_rejected(value: str) -> None:
    lines = value.rstrip().splitlines(keepends=True)
    trimmed = "".join(dropwhile(lambda line: not line.strip(), lines))
    try:
        assert TEXT.validate_python(value) == trimmed
    except ValidationError:
        assert not 1 <= len(trimmed) <= 10 or "\0" in trimmed or not is_visible(trimmed)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\v", "\f", "\x85", "\u2028", "\u2029"])
def test_empty_lines_at_the_start_are_removed_and_the_first_line_keeps_its_indentation(end: str) -> None:
    assert TEXT.validate_python(f"{end} \t{end}  a{end} b \u3000{end}") == f"  a{end} b"


def test_length_is_counted_in_characters_after_trimming() -> None:
    assert TEXT.validate_python("\u2003\n" + "😀" * 10 + "\n\n") == "😀" * 10
    for value in ("", " \n\t\u00a0\u2003", "x" * 11, " " * 10 + "x"):
        with pytest.raises(ValidationError):
            TEXT.validate_python(value)


@pytest.mark.parametrize("value", ["\0", "a\0b", "\ud800", "a\udfffb", "\ude00\ud83d", 7, None])
def test_values_that_the_database_cannot_store_are_rejected(value: object) -> None:
    with pytest.raises(ValidationError):
        TEXT.validate_python(value)


@pytest.mark.parametrize("separator", ["\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_an_unusual_line_separator_in_a_single_line_becomes_a_space(separator: str) -> None:
    assert LINE.validate_python(f"a{separator}b") == "a b"
    assert LINE.validate_python(f"a\tb {separator}") == "a\tb"


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_single_line_has_no_line_break_but_in_a_name_it_becomes_a_space(end: str) -> None:
    with pytest.raises(ValidationError):
        LINE.validate_python(f"a{end}b")
    assert LINE.validate_python(f"a{end}") == "a"
    assert TypeAdapter(Name).validate_python(f"a{end}b") == "a b"


UNSEEN = [
    *"\u200b\u200d\u2060\ufeff\u00ad\u061c\u180e\u202e\u2066\u034f\u115f\u1160\u3164\uffa0\u2800\ufe0f\u180b\u17b4",
    *"\U000e0041\U000e0100\U0001d159\ufff0\ufffc\U000e0fff\uffff\x01\x7f",
]


@pytest.mark.parametrize("value", [*UNSEEN, "".join(UNSEEN), " ".join(UNSEEN) * 300], ids=ascii)
def test_text_of_invisible_characters_is_rejected(value: str) -> None:
    assert not is_visible(value)
    with pytest.raises(ValidationError, match="visible"):
        TypeAdapter(MultiLine).validate_python(value)
    assert TypeAdapter(Name).validate_python(value) == ""
    assert TypeAdapter(MultiLine).validate_python(f"{value}x") == f"{value}x"


@pytest.mark.parametrize(
    "value",
    ["é", "\U0001fae8", "1\ufe0f\u20e3", "\u200d👩", "\u0301", "\u2066.\u2069", "한", "⠁", "\u3164a", "\U00020000"],
    ids=ascii,
)
def test_partly_visible_text_is_kept_unchanged(value: str) -> None:
    assert TypeAdapter(MultiLine).validate_python(value) == value


def test_control_characters_for_terminals_are_shown_as_escapes() -> None:
    assert printable("a\x1b[31mb\x07\n\u202ec\x9b é 😀") == r"a\x1b[31mb\x07\n\u202ec\x9b é 😀"
    assert printable("\ud800") == r"\ud800"


@given(st.text(), st.integers(1, 200))
def test_a_preview_is_one_line_and_never_longer_than_requested(value: str, length: int) -> None:
    text = preview(value, length)
    assert len(text) <= length
    assert len(text.splitlines()) <= 1
    assert text == text.strip()


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
def test_a_preview_never_ends_inside_a_grapheme(character: str, length: int, shown: int) -> None:
    assert preview(character * 20, length) == character * shown + "…"


def test_a_preview_marks_that_there_is_more() -> None:
    assert preview(" a\n\n b\tc ") == "a b c"
    assert preview("x" * 140) == "x" * 140
    assert preview("x" * 141) == "x" * 139 + "…"
    assert preview("word " * 100, 7) == "word…"
    assert preview("word " * 100, 6) == "word…"


@given(st.text(max_size=300))
def test_an_id_is_1_to_255_visible_ascii_characters(value: str) -> None:
    valid = 1 <= len(value) <= 255 and all("!" <= character <= "~" for character in value)
    try:
        TypeAdapter(StoreId).validate_python(value)
        assert valid
    except ValidationError:
        assert not valid


PATHS = st.sampled_from(
    ["..", "/", "en", "_", "-", "Europe", "UTC", ".", "\0", "\ud800", "x" * 40, "\n", "posix", "é", "@"]
)


@given(st.text(max_size=40) | st.lists(PATHS, max_size=6).map("".join))
def test_any_text_is_accepted_or_rejected_as_a_locale_zone_and_address(value: str) -> None:
    for kind in (LocaleTag, ZoneName, Address):
        adapter: TypeAdapter[str] = TypeAdapter(kind)
        with contextlib.suppress(ValidationError):  # no other exception
            assert adapter.validate_python(value)


@pytest.mark.parametrize("value", ["en", "de-AT", "pt_BR", "zh-Hant-TW", "sr-Latn"])
def test_a_locale_may_have_hyphens_or_underscores(value: str) -> None:
    assert TypeAdapter(LocaleTag).validate_python(value) == value


@pytest.mark.parametrize(
    ("value", "nearest"),
    [
        ("es-DE", "es"),
        ("es_DE", "es"),
        ("zh-Hant-DE", "zh-Hant"),
        ("en-US-x-twain", "en-US"),
        ("de-DE-u-co-phonebk", "de-DE"),
        ("de_DE@euro", "de_DE"),
        ("de_DE.UTF-8", "de_DE"),
    ],
)
def test_an_unknown_locale_becomes_the_nearest_known_one(value: str, nearest: str) -> None:
    assert TypeAdapter(LocaleTag).validate_python(value) == nearest


@pytest.mark.parametrize("value", ["localtime", "Factory", "posixrules", "posix/Europe/Vienna", "right/Europe/Vienna"])
def test_a_name_of_this_machines_zone_files_that_browsers_reject_is_no_zone(value: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ZoneName).validate_python(value)


@pytest.mark.parametrize("value", ["europe/vienna", "Europe/Vienna", "EUROPE/VIENNA"])
def test_a_zone_is_recognized_in_any_case(value: str) -> None:
    assert TypeAdapter(ZoneName).validate_python(value) == "Europe/Vienna"
    assert TypeAdapter(ZoneName).validate_python("America/New York") == "America/New_York"


@pytest.mark.parametrize(
    "value", ["anna@localhost", "anna@shop.test", "ünï@bücher.example", "a+b@customer.test", f"{64 * 'a'}@shop.test"]
)
def test_an_address_of_a_test_domain_or_in_any_script_is_valid(value: str) -> None:
    assert TypeAdapter(Address).validate_python(value) == value


@pytest.mark.parametrize("local", ["anna..berg", "anna.", ".anna", "an...na..", "ünï..", "a" * 62 + ".."])
def test_an_address_may_have_dots_anywhere_before_the_at_sign(local: str) -> None:
    for written in (f"{local}@Docomo.Ne.Jp", f'"{local}"@docomo.ne.jp'):
        assert TypeAdapter(Address).validate_python(written) == f"{local}@docomo.ne.jp"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "anna",
        "@shop.test",
        "a@b@c.test",
        "a b@shop.test",
        "a@shop.test\nBcc: b@shop.test",
        "a@shop..test",
        "...@shop.test",
        "a@.shop.test",
        "a" * 63 + "..@shop.test",
    ],
)
def test_an_address_that_cannot_receive_email_is_rejected(value: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Address).validate_python(value)
