"""Excerpts: short, on one line, beginning shortly before the first hit, with hits where they are in it."""

import pytest

from services.conversations.search.excerpts import BEFORE, LENGTH, excerpt_of
from services.conversations.search.query import Span, parse
from services.conversations.search.words import split

FILLER = "All of this has nothing to do with it, "


@pytest.mark.parametrize(
    ("text", "q", "excerpt", "hits"),
    [
        ("A blue hoodie", "hoodie", "A blue hoodie", ["hoodie"]),
        ("One\nblue\u2028hoodie\t!", "hood blue", "One blue hoodie !", ["blue"]),
        (f"{FILLER * 9}and my hoodie is torn.", "hoodie", "…to do with it, and my hoodie is torn.", ["hoodie"]),
        ("x" * 300 + " hoodie", "hoodie", "…hoodie", ["hoodie"]),
        ("注文した商品が" * 20, "商品", "注文した商品が" * 20, ["商品"] * 20),
        ("👩‍💻 hoodie 👍🏽 torn", "torn", "👩‍💻 hoodie 👍🏽 torn", ["torn"]),
        ("re\u0301sume\u0301 here", "resume", "re\u0301sume\u0301 here", ["re\u0301sume\u0301"]),
        ("A hoodie", "jacket", "A hoodie", []),
    ],
)
def test_an_excerpt_has_the_hits_where_it_says(text: str, q: str, excerpt: str, hits: list[str]) -> None:
    runs = list(split(text))
    shown, places = excerpt_of(text, [span for term in parse(q).terms for span in term.find(runs)])
    assert shown == excerpt
    assert [shown[start : start + length] for start, length in places] == hits


def test_an_excerpt_is_short_and_its_first_hit_near_the_start() -> None:
    text = f"{FILLER * 30}hoodie {FILLER * 30}hoodie"
    places = [Span(text.index("hoodie"), 6), Span(text.rindex("hoodie"), 6)]
    shown, [hit] = excerpt_of(text, places)
    assert len(shown) <= LENGTH + 2
    assert hit.start <= BEFORE + 1
    assert shown[0] == shown[-1] == "…"


def test_overlapping_hits_are_one_and_a_long_one_ends_with_the_excerpt() -> None:
    shown, hits = excerpt_of("wi-fi router", [Span(0, 2), Span(0, 5), Span(3, 2)])
    assert (shown, list(hits)) == ("wi-fi router", [Span(0, 5)])
    shown, [hit] = excerpt_of("word " * 100, [Span(0, 499)])
    assert shown[hit.start : hit.start + hit.length] == shown.removesuffix("…")
