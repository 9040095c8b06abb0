"""Which addresses in a message become links, and where they end."""

import re
import unicodedata
from html import unescape

import pytest

from services.conversations.web.links import MAX_ADDRESS, MAX_CANDIDATES, linked

HERE = "https://shop.example/a"
HREF = re.compile('<a href="([^"]*)"')


def links(text: str) -> list[str]:
    return [unescape(href) for href in HREF.findall(linked(text))]


@pytest.mark.parametrize(
    "address",
    [
        HERE,
        "HTTPS://Shop.Example/A",
        "hTTp://shop.example",
        "http://localhost:8000/?a[]=1&b=(c)#d;e",
        "http://[::1]:8000/",
        "https://shop.example/it's",
        "https://en.wikipedia.example/wiki/Tea_(drink)",
        "https://xn--mller-kva.example/",
        "https://müller.example/größe",
        "https://例え.example/パス",
        "https://shop.example/" + "a" * (MAX_ADDRESS - 21),
    ],
)
def test_a_link_leads_to_the_address_as_written(address: str) -> None:
    assert links(address) == [address]
    assert links(f"before {address} after") == [address]


@pytest.mark.parametrize("sign", [*".,:;!?*_~'\"`<>()[]{}|\\^", "!?", "?!:", "…", "\n", "\t"])
def test_the_end_of_a_sentence_is_no_part_of_a_link(sign: str) -> None:
    assert links(HERE + sign) == [HERE]
    assert links(f"{HERE}{sign} And so on.") == [HERE]


@pytest.mark.parametrize("sign", [*"。、，．：；？！…・）］｝」』】〉》〕〗〟｣”’»›“„«؟،؛।։׃།။።។", "\u3000", "\u00a0"])
def test_punctuation_and_quotes_of_any_script_end_a_link(sign: str) -> None:
    assert links(f"{HERE}{sign}") == [HERE]


@pytest.mark.parametrize("sign", [*"。、，．：；？！）」』】”’»", "\u200b", "\ufeff", "😀", "\u00a0"])
def test_text_may_follow_the_sign_that_ends_a_link(sign: str) -> None:
    assert links(f"{HERE}{sign}more") == [HERE]


@pytest.mark.parametrize(
    "around",
    [
        "({})",
        "[{}]",
        "<{}>",
        '"{}"',
        "'{}'",
        "`{}`",
        "“{}”",
        "‘{}’",
        "„{}“",
        "«{}»",
        "「{}」",
        "（{}）",
        "**{}**",
        "_{}_",
    ],
)
def test_an_address_may_be_in_brackets_quotes_and_backticks(around: str) -> None:
    assert links(around.format(HERE)) == [HERE]
    assert links(around.format(HERE + "/x_(y)")) == [HERE + "/x_(y)"]


@pytest.mark.parametrize("before", ["見て", "-", "→", "Link:", "ß", "é", "ok."])
def test_an_address_need_not_follow_a_space(before: str) -> None:
    assert links(before + HERE) == [HERE]


def test_the_addresses_in_a_markdown_link_are_linked() -> None:
    assert links(f"[our page]({HERE})") == [HERE]
    assert links(f"[{HERE}]({HERE}/b), ![]({HERE})") == [HERE, HERE + "/b", HERE]


@pytest.mark.parametrize(
    ("text", "href"),
    [
        ("www.shop.example", "https://www.shop.example"),
        ("WWW.Shop.Example/a.", "https://WWW.Shop.Example/a"),
        ("anna@shop.example", "mailto:anna@shop.example"),
        ("Write to anna+chats@mail.shop.example.", "mailto:anna+chats@mail.shop.example"),
        ("MAILTO:anna@shop.example", "mailto:anna@shop.example"),
        ("<anna@shop.example>", "mailto:anna@shop.example"),
        ("-anna@shop.example-", "mailto:anna@shop.example"),
        ("'anna@shop.example'", "mailto:anna@shop.example"),
        ("o'brien@shop.example", "mailto:o'brien@shop.example"),
        ("info@müller.example", "mailto:info@müller.example"),
        ("メールはanna@shop.exampleまで", "mailto:anna@shop.example"),
    ],
)
def test_an_address_without_a_scheme_gets_one(text: str, href: str) -> None:
    assert links(text) == [href]


@pytest.mark.parametrize(
    "text",
    [
        "https://",
        "http://...",
        "https://-",
        "xhttps://shop.example",
        "javascript:alert(1)",
        "ftp://shop.example",
        "www.shop",
        "www...",
        "anna@localhost",
        "anna@shop.e",
        "anna@shop.example2",
        "@anna",
        "3.14",
        "file.txt",
        "a" * 65 + "@shop.example",
        "a." * 40 + "a@shop.example",
        "https://shop.example@elsewhere.example/",
        "https://shop.example:80@elsewhere.example/",
        "https://shop.example/" + "a" * MAX_ADDRESS,
        "w" * 10_000,
        "(" * 10_000,
        "@" * 10_000,
    ],
)
def test_an_invalid_or_misleading_address_is_not_linked(text: str) -> None:
    assert links(text) == []
    assert unescape(str(linked(text))) == text


def test_a_link_ends_at_a_space_or_an_invisible_character() -> None:
    invisible = [chr(c) for c in range(0x80, 0x10000) if unicodedata.category(chr(c)) in {"Zs", "Zl", "Zp", "Cc"}]
    overrides = [
        c for c in map(chr, range(0x10000)) if unicodedata.bidirectional(c) in {"LRE", "RLE", "LRO", "RLO", "PDF"}
    ]
    isolates = [*"\u2066\u2067\u2068\u2069\u200e\u200f\u061c"]
    for sign in [
        *invisible,
        *overrides,
        *isolates,
        "\u200b",
        "\u200c",
        "\u200d",
        "\u2060",
        "\ufeff",
        "\u3164",
        "\U000e0041",
    ]:
        assert links(f"{HERE}{sign}/b") == [HERE], hex(ord(sign))


def test_a_link_is_isolated_from_the_text_direction_around_it() -> None:
    assert f'<a href="{HERE}" dir="ltr" rel="nofollow noopener noreferrer" target="_blank">{HERE}</a>' in linked(
        f"\u202e{HERE}"
    )


def test_markup_around_and_in_an_address_stays_text() -> None:
    text = f'<b>{HERE}?a=1&b="><script>alert(1)</script>'
    assert links(text) == [f"{HERE}?a=1&b="]
    assert "<b>" not in linked(text)
    assert "<script>" not in linked(text)


def test_only_a_limited_number_of_addresses_become_links() -> None:
    assert links(f"{HERE} " * (MAX_CANDIDATES + 50)) == [HERE] * MAX_CANDIDATES
    assert links("http://- " * (MAX_CANDIDATES + 50)) == []


def test_an_address_that_is_too_long_does_not_hide_the_next_one() -> None:
    assert links("https://shop.example/" + "a" * MAX_ADDRESS + f" {HERE}") == [HERE]
