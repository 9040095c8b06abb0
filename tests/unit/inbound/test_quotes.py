from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notifications.inbound.parsing.html_text import html_lines
from services.notifications.inbound.parsing.lines import plain_lines
from services.notifications.inbound.quotes.folding import Cut, cut
from services.notifications.inbound.quotes.introductions import Known
from services.notifications.mail.fingerprints import Fingerprints, essence, fingerprint

OURS = """\
Northwind Tea sent you a message

----------------------------------------
Anna, Nov 23, 2026, 10:12 AM

Hello Maria,

Which size do you need? We have small and large ones.
Shall we send it to your home address?

Thanks!

----------------------------------------
View and reply:
https://shop.example/dashboard/messages/1/

You received this email because you have a conversation with Northwind Tea."""
INTRO = "On Mon, Nov 23, 2026 at 10:12 AM Northwind Tea <support@northwind.example> wrote:"
QUOTE = "\n".join(f"> {line}" for line in OURS.split("\n"))
KNOWN = Known(
    ("support@northwind.example",),
    ("Northwind Tea",),
    ("maria@customer.example",),
    "Which size",
    ("https://shop.example/",),
)
WRITTEN = Fingerprints([fingerprint(["Northwind Tea", OURS])])


def plain(text: str) -> Cut:
    return cut(plain_lines(text), WRITTEN, KNOWN)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Thanks!\n\n{INTRO}\n{QUOTE}", "Thanks!"),
        (f"{INTRO}\n{QUOTE}\n\nThanks!", "Thanks!"),
        (f"👍\n\n{INTRO}\n{QUOTE}", "👍"),
        (f"{INTRO}\n{QUOTE}\n👍", "👍"),
        (f"From: Berlin\nTo: Leipzig\n\n{INTRO}\n{QUOTE}", "From: Berlin\nTo: Leipzig"),
        (f"{INTRO}\n> Which size do you need? The large one\n", "The large one"),
        (
            f"You wrote: Shall we send it to your home address?\nI moved.\n\n{INTRO}\n{QUOTE}",
            "You wrote: Shall we send it to your home address?\nI moved.",
        ),
        (
            f"Shall we send it to your home address?\nI moved.\n\n{INTRO}\n{QUOTE}",
            "Shall we send it to your home address?\nI moved.",
        ),
        (f"I ordered on 23.11.2026 at 10:12:\n{INTRO}\n{QUOTE}", "I ordered on 23.11.2026 at 10:12:"),
        (f"No.\n\n-----Original Message-----\n{INTRO}\n{OURS}", "No."),
        (f"No.\n\n{OURS}", "No."),
        (f"No.\n\n{INTRO}\n{QUOTE}\n-- \nMaria", "No.\n\n--\nMaria"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_not_ours_stays(text: str, shown: str) -> None:
    result = plain(text)
    assert (result.text, result.folded) == (shown, True)


@pytest.mark.parametrize(
    "text",
    [
        "From: Berlin\nTo: Leipzig\nWhen is it sent?",
        "> Shop A sent you a message\n> on Monday\n\nIs that you?",
        "On Mon, Nov 23, 2026 at 10:12 AM Other Shop <a@other.example> wrote:\n> Your parcel is late.\n\nIs it?",
        "Thanks!",
        "Hello Maria,\nThanks!",
    ],
)
def test_without_a_quote_of_ours_all_is_shown(text: str) -> None:
    assert plain(text) == Cut(text)


def test_an_answer_inside_the_mark_of_a_quote_stays() -> None:
    result = plain(
        f"{INTRO}\n> Which size do you need?\n> The large one.\n> Shall we send it to your home address?\n> No."
    )
    assert result.text == "The large one.\n\nNo."


def test_an_answer_typed_into_a_blockquote_stays() -> None:
    html = (
        f'<div class="gmail_quote"><div class="gmail_attr">{INTRO.replace("<", "&lt;")}</div><blockquote>'
        "<p>Which size do you need?</p><p>The large one.</p><p>Shall we send it to your home address?</p>"
        "</blockquote></div>"
    )
    assert cut(html_lines(html), WRITTEN, KNOWN).text == "The large one."


def test_a_reply_that_is_only_our_quote_is_shown_whole() -> None:
    result = plain(f"{INTRO}\n{QUOTE}")
    assert result.only_quote
    assert "Which size do you need?" in result.text


def test_a_paragraph_that_the_sender_broke_between_two_sentences_is_recognised() -> None:
    result = plain(f"{INTRO}\n> Which size do you need?\nLarge.\n> We have small and large\n> ones.\nI know.")
    assert result.text == "Large.\n\nI know."


def test_accents_of_entities_and_urls_of_links_survive() -> None:
    lines = html_lines(
        '<p>Gr&ouml;&szlig;e <b>M</b>, siehe <a href="https://x.example/a?b=1">hier</a></p><ul><li>eins</ul>'
    )
    assert [line.text for line in lines if line.text] == ["Größe M, siehe hier <https://x.example/a?b=1>", "* eins"]


def test_what_looks_like_an_entity_is_the_senders() -> None:
    cell = "<a href='https://x.example/?a=1&amp;copy=2'>here</a> type &amp;lt;br&gt; a?b=1&amp;currency=EUR"
    for html in (f"<p>{cell}", f"<table><tr><td><table><tr><td>{cell}</table></table>"):
        [text] = [line.text for line in html_lines(html) if line.text]
        assert text == "here <https://x.example/?a=1&copy=2> type &lt;br> a?b=1&currency=EUR"


@pytest.mark.parametrize("attribute", [" a{}=b", " a{}='<>'", "/a{}", " =a{}", ' "a{}'])
def test_text_of_an_element_with_a_hundred_thousand_attributes_is_not_lost(attribute: str) -> None:
    attributes = "".join(map(attribute.format, range(100_000)))
    assert "mine" in [line.text for line in html_lines(f"<p{attributes}>\nmine</p>")]


@pytest.mark.parametrize("tag", ["div", "blockquote", "table><tr><td", "ul><li", "span"])
def test_text_a_thousand_elements_deep_is_not_lost(tag: str) -> None:
    assert "".join(line.text for line in html_lines(f"<{tag}>" * 1000 + "deep")).strip("* ") == "deep"


@pytest.mark.parametrize(
    "piece",
    [
        "> Thanks!\n",
        "Hello Maria,\n",
        f"{INTRO}\n",
        "> ",
        "From: a\n",
        "x:",
        "-----",
        "Which size do you need? ",
        "https://x",
        ">\n",
    ],
)
def test_work_is_linear_whatever_the_text(piece: str) -> None:
    class Counted(Fingerprints):
        looked = 0

        def matches(self, essence: str, at: int) -> Iterator[tuple[int, list[int]]]:
            self.looked += 1
            return super().matches(essence, at)

    def looked(size: int) -> int:
        counted = Counted([fingerprint(["Northwind Tea", OURS])])
        cut(plain_lines(piece * (size // len(piece)) + QUOTE), counted, KNOWN)
        return counted.looked

    # The test's own time limit finds what this does not count: a quadratic expression takes minutes for this text.
    assert looked(160_000) < 9 * looked(20_000)


def test_format_flowed_joins_soft_breaks() -> None:
    lines = plain_lines("a \nb\n> c \n> d\n-- \nme", flowed=True)
    assert [(line.text, line.depth) for line in lines] == [("a b", 0), ("c d", 1), ("-- ", 0), ("me", 0)]


def test_fingerprints_are_ten_bytes_a_sentence_and_bounded() -> None:
    assert len(fingerprint(["One. Two! Three"])) == 30
    assert len(fingerprint([f"Line {number}\n" for number in range(9000)])) <= 4000


@given(st.text(st.characters(max_codepoint=127)))
def test_letters_of_ascii_are_the_same_in_a_text_of_any_script(text: str) -> None:
    assert essence(f"{text}\n\u00e4") == f"{essence(text)}a"


TYPED = [
    "Yes",
    "No.",
    "Thanks!",
    "The large one.",
    "From: Berlin",
    "To: Leipzig",
    "23.11.2026 10:12:",
    "👍",
    "-",
    "Anna",
    "Which?",
]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(TYPED)), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_whatever_is_typed_between_lines_of_a_quote_is_not_lost(
    answers: list[tuple[int, str]], marked: bool, introduced: bool
) -> None:
    lines = [f"> {line}" if marked else line for line in OURS.split("\n")]
    lines = [INTRO, "", *lines] if introduced else lines
    for position, answer in answers:
        lines.insert(position, f"{answer} {position}x")
    shown = Counter(plain("\n".join(lines)).text.split("\n"))
    assert Counter(f"{answer} {position}x" for position, answer in answers) <= shown
