"""What of an admin's reply a customer may see: the admin's own words, or nothing if that is not certain."""

import pytest

from services.notifications.inbound.parsing.html_text import html_lines
from services.notifications.inbound.parsing.lines import plain_lines
from services.notifications.inbound.parsing.mime import parse_email
from services.notifications.inbound.quotes.introductions import Known
from services.notifications.inbound.quotes.own_words import own_words
from services.notifications.inbound.quotes.reply_text import read_own_words
from services.notifications.mail.fingerprints import Fingerprints, fingerprint
from tests.unit.inbound.test_corpus import OURS, REPLIES, spaced
from tests.unit.inbound.test_quotes import INTRO, KNOWN, QUOTE, WRITTEN
from tests.unit.inbound.test_quotes import OURS as OUR_EMAIL


def read(reply: dict[str, str], *, recognised: bool) -> str | None:
    ours = OURS[reply["language"]]
    known = Known(
        ("support@northwind.example", "reply+x@in.example"),
        ("Northwind Tea", "Anna"),
        ("maria@customer.example", "Maria Rossi"),
        ours["subject"],
        ("shop.example", "https://shop.example/admin/"),
    )
    written = fingerprint([ours["preview"], "Northwind Tea", ours["subject"], ours["text"]]) if recognised else b""
    return read_own_words(parse_email(reply["source"].encode()), Fingerprints([written]), known)


def is_all(reply: dict[str, str], text: str | None) -> bool:
    expected = spaced(reply["expected"])
    return text is not None and spaced(text) in {expected, expected.partition("\n--\n")[0]}


def test_replies_of_mail_programs_are_cut_exactly_and_those_within_the_quote_are_held() -> None:
    results = {reply["name"]: (reply, read(reply, recognised=True)) for reply in REPLIES}
    certain = {name: pair for name, pair in results.items() if pair[1] is not None}
    assert [name for name, pair in certain.items() if not is_all(*pair)] == []
    assert {name.partition(",")[0] for name in results.keys() - certain.keys()} == {"gmail inline"}
    assert len(certain) > 0.95 * len(REPLIES)


def test_nothing_of_a_quote_is_left_even_if_none_of_our_words_are_recognised() -> None:
    results = [(reply, read(reply, recognised=False)) for reply in REPLIES]
    assert [reply["name"] for reply, text in results if text is not None and not is_all(reply, text)] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"The large one fits.\n\n{INTRO}\n{QUOTE}", "The large one fits."),
        (f"{INTRO}\n{QUOTE}\n\nThe large one fits.", "The large one fits."),
        (f"The large one fits.\n-- \nSam, extension 42\n\n{INTRO}\n{QUOTE}", "The large one fits."),
        ("The large one fits.\n--\nSam", "The large one fits."),
        ("No quote at all.\n\nRegards,\nSam\nNorthwind Tea", "No quote at all.\n\nRegards,\nSam\nNorthwind Tea"),
        ("Write to support@northwind.example, please.", "Write to support@northwind.example, please."),
        (f"See below.\n-- \nSam\n{INTRO}\n{QUOTE}\nAnd this, too.", None),
        (f"{INTRO}\n> Which size do you need? The large one\n", None),
        ("Yes.\n> Some quote that nobody knows", None),
        ("Yes.\n\nWhich size do you need? We have small and large ones.", None),
        ("Yes.\n\nFrom: Northwind Tea <support@northwind.example>\nDate: 23.11.2026\n\nHello", None),
        ("Yes.\n\n-----Original Message-----\nHello", None),
        ("Yes.\n\n________________________________\nHello", None),
        ("Yes.\n\nAm 23.11.2026 schrieb Maria <maria@elsewhere.example>:\nHello", None),
        (f"Yes.\nreply+{'a' * 52}@in.example", None),
        ("Yes, see https://shop.example/admin/dashboard/conversation/1/", None),
        ("x" * 60_000, None),
    ],
)
def test_what_is_not_certain_is_not_shown(text: str, shown: str | None) -> None:
    known = Known(KNOWN.addresses, KNOWN.names, KNOWN.recipient, KNOWN.subject, ("https://shop.example/admin/",))
    assert own_words(plain_lines(text), WRITTEN, known) == shown


@pytest.mark.parametrize(
    ("html", "shown"),
    [
        (f"<p>Yes.</p><blockquote>{OUR_EMAIL}</blockquote>", "Yes."),
        ("<p>Yes.</p><blockquote>Unknown</blockquote>", None),
        ("<p>Yes.</p><div class='gmail_quote'>Unknown</div>", None),
        ("<p>Yes.</p><div>-- </div><div>Sam</div>", "Yes."),
    ],
)
def test_quotes_in_html_that_are_not_ours_are_not_shown(html: str, shown: str | None) -> None:
    assert own_words(html_lines(html.replace("\n", "<br>")), WRITTEN, KNOWN) == shown


def test_a_reply_with_an_attached_email_is_not_certain() -> None:
    source = (
        b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nYes.\r\n'
        b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: internal\r\n\r\nSecret\r\n--b--\r\n"
    )
    assert read_own_words(parse_email(source), WRITTEN, KNOWN) is None
