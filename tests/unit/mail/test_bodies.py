"""The body of a message in an email: the markup keeps its shape and text directions, and its size is bounded."""

import pytest
from markupsafe import Markup

from services.notifications.delivery.message_selection import MAX_HTML_BYTES
from services.notifications.mail import bodies
from services.notifications.mail.bodies import html_size, render_body

GMAIL = 102 * 1024
LONGEST = 10_000  # characters of a message


def html(body: str) -> str:
    return str(render_body(body).html).replace("\xa0", "_")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("one\ntwo\n\nthree", "one<br>two<br><br>three"),
        ("a\r\nb\rc\u2028d", "a<br>b<br>c<br>d"),
        (" one\n  two\n   three", "_one<br>_ two<br>__ three"),
        ("a  b   c", "a_ b__ c"),
        ("a\tb", "a_ _ b"),
        ("<b> & 'c'", "&lt;b&gt; &amp; &#39;c&#39;"),
    ],
)
def test_line_breaks_and_spaces_are_in_the_markup(body: str, shown: str) -> None:
    assert html(body) == shown


@pytest.mark.parametrize("line", ["-- ", "--  ", "--\t", "--\xa0"])
def test_no_line_of_a_text_can_be_taken_for_a_signature(line: str) -> None:
    assert render_body(f"Thanks\n{line}\nMila\n -- \n-- so").text == "Thanks\n--\nMila\n -- \n-- so"


def test_lines_of_another_direction_are_in_blocks_of_their_own() -> None:
    assert html("Hello\n- 1\nשרה (Mila)\n2.\n\nشكر\nSee you") == (
        '<div dir="ltr">Hello<br>- 1</div><div dir="rtl">שרה (Mila)<br>2.<br><br>شكر</div><div dir="ltr">See you</div>'
    )


def test_lines_without_letters_take_the_direction_of_the_first_line_with_letters() -> None:
    assert html("1.\n😀\nשרה") == '<div dir="rtl">1.<br>😀<br>שרה</div>'


def test_an_empty_line_at_the_end_of_a_block_stays_visible() -> None:
    assert html("Hello\n\nשרה") == '<div dir="ltr">Hello<br><br></div><div dir="rtl">שרה</div>'


def test_a_text_that_changes_direction_often_has_a_limited_number_of_blocks_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "MAX_BLOCKS", 2)
    assert html("a\nא\nb\nב\nc") == '<div dir="ltr">a</div><div dir="rtl">א</div><div dir="auto">b<br>ב<br>c</div>'


@pytest.mark.parametrize(
    "repeated",
    [
        "word ",
        "\t",
        "x\t",
        "\n",
        "a\n",
        "a\nא\n",
        "\n\n\nא\n",
        "&",
        '"',
        "<",
        "  a",
        "\n ",
        "字",
        "😀",
        "é",
        "\u2028",
        "-- \n",
    ],
)
def test_any_message_is_shown_whole_before_mail_programs_cut_the_email(repeated: str) -> None:
    body = (repeated * LONGEST)[:LONGEST]
    assert html_size(body) <= MAX_HTML_BYTES
    assert html_size(body) < 2.5 * html_size(body[: LONGEST // 2])


def test_an_email_of_the_maximum_size_is_shown_whole_when_encoded() -> None:
    assert (MAX_HTML_BYTES + 5000) * 4 / 3 * 78 / 76 < GMAIL


def test_a_body_is_markup_that_is_not_escaped_again() -> None:
    assert Markup("{}").format(render_body("<&>").html) == "&lt;&amp;&gt;"
