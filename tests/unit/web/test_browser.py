"""The languages and the time zone that a browser asks for."""

import random
import time

import pytest
from starlette.requests import Request

from services.conversations.web.browser import browser_zone, preferred_locales

SUPPORTED = ("en-GB", "en", "de")


def request(**headers: str) -> Request:
    named = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "headers": named})


def locales(header: str) -> list[str]:
    return list(preferred_locales(request(accept_language=header), SUPPORTED))


@pytest.mark.parametrize(
    ("header", "preferred"),
    [
        ("de-AT, de;q=0.9, en;q=0.8", ["de-AT", "de", "en"]),
        ("en;q=0.2, fr;q=0.5, de", ["de", "fr", "en"]),
        ("pt_BR", ["pt_BR", "en-GB", "en", "de"]),
        ("DE-at ; Q=0.5 ,fr", ["fr", "DE-at", "en-GB", "en"]),
        ("es-DE", ["es", "en-GB", "en", "de"]),  # the nearest known one
        ("de;q=1.000, fr;q=1.", ["de", "fr", "en-GB", "en"]),
        ("*", ["en-GB", "en", "de"]),
        ("*, fr", ["fr", "en-GB", "en", "de"]),
        ("fr;q=0.1, *;q=0.5", ["en-GB", "en", "de", "fr"]),
        ("en-US;q=0.5, *;q=0.6", ["de", "en-US"]),  # a named language is not what * stands for
        ("de, en;q=0", ["de"]),
        ("en;q=0", ["de"]),
        ("en;q=0.0, de;q=0.000", []),
        ("fr, *;q=0", ["fr"]),
        ("de, de;q=0.4", ["de", "en-GB", "en"]),
    ],
)
def test_languages_are_ordered_by_their_weights(header: str, preferred: list[str]) -> None:
    assert locales(header) == preferred


@pytest.mark.parametrize(
    "header",
    ["", " ", ",", ",,;q=,", ";q=1", "q=0.5", "de;q=2", "de;q=-1", "de;q=nan", "de;q=1e3", "de;level=1", "d", "123",
     "-", "de-", "--", "de--AT", "../../etc/passwd", "de\x00", "\xff\xfe", "'; drop table users; --", "abcdefghij"],
)  # fmt: skip
def test_what_is_no_language_is_ignored(header: str) -> None:
    assert locales(header) == []
    assert locales(f"{header}, de")[:1] == ["de"]


@pytest.mark.parametrize("header", ["xx-Zzzz-99", "klingon", "zz"])
def test_an_unknown_language_leaves_the_supported_ones(header: str) -> None:
    assert locales(header) == list(SUPPORTED)


def test_no_header_is_no_preference() -> None:
    assert not preferred_locales(request(), SUPPORTED)


def test_several_headers_are_one() -> None:
    several = Request({"type": "http", "headers": [(b"accept-language", b"fr;q=0.5"), (b"accept-language", b"de")]})
    assert list(preferred_locales(several, SUPPORTED))[:2] == ["de", "fr"]


def test_a_huge_header_costs_as_little_as_a_short_one() -> None:
    signs, choice = "de-AT,;q=0.1*_ \xff", random.Random(1)
    headers = ["de," + unit * (10_000 // len(unit)) for unit in ("x", ",", ";", "a-", "fr;q=0.1,", " ", "*,", "q=")]
    headers.append("de," + ",".join(f"{a}{b}{'-xy' * 10}" for a in "abcde" for b in "fghij"))  # each is looked up often
    headers += ["de," + "".join(choice.choices(signs, k=10_000)) for _ in range(50)]
    started = time.process_time()
    found = [locales(header) for header in headers]
    assert (time.process_time() - started) / len(headers) < 0.01
    assert all("de" in names for names in found)
    assert locales(f"de,{'x' * 994},fr-{'a' * 10_000}")[0] == "de"  # what is cut off is not read


@pytest.mark.parametrize(
    ("cookie", "zone"),
    [
        ("chats-zone=Asia/Tokyo", "Asia/Tokyo"),
        ("a=b; chats-zone=America/Argentina/Buenos_Aires; c=d", "America/Argentina/Buenos_Aires"),
        ("chats-zone=Etc/GMT+5", "Etc/GMT+5"),
        ("chats-zone=europe/vienna", "Europe/Vienna"),
        ("chats-zone=Mars/Olympus", None),
        ("chats-zone=../../etc/passwd", None),
        ("chats-zone=", None),
        ("chats-zone", None),
        ("chats-zone=localtime", None),
        ("chats-zone=+05:30", None),
        (f"chats-zone={'x' * 10_000}", None),
        ("chats-zone=\xff\x00", None),
        ("zone=Asia/Tokyo", None),
    ],
)
def test_the_zone_is_a_known_one_or_none(cookie: str, zone: str | None) -> None:
    assert browser_zone(request(cookie=cookie)) == zone


def test_without_cookies_there_is_no_zone() -> None:
    assert browser_zone(request()) is None
