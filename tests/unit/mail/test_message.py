import re
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import parseaddr
from html.parser import HTMLParser
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.notifications.inbound.parsing.html_text import html_lines
from services.notifications.inbound.parsing.mime import parse_email
from services.notifications.inbound.quotes.folding import cut
from services.notifications.inbound.quotes.introductions import Known
from services.notifications.mail.fingerprints import Fingerprints
from services.notifications.mail.message import (
    Brand,
    ContentFile,
    ContentMessage,
    EmailContent,
    compose,
    compose_with_fingerprints,
    message_id,
)

CONVERSATION = UUID("0b54c1c4-7d0e-4c39-9a7a-3f0f6a1c2d3e")
MOMENT = datetime(2026, 7, 3, 21, 5, tzinfo=UTC)
LINK = f"https://shop.example/dashboard/messages/{CONVERSATION}/"
BRAND = Brand(
    store_name="Hazel & Birch",
    email_from="no-reply@shop.example",
    public_url="https://shop.example",
    reply_to=None,
    time_zone="UTC",
    locale="en",
)
CONTENT = EmailContent(
    message_id="<one@shop.example>",
    audience="customer",
    conversation_id=CONVERSATION,
    subject="Where is my parcel?",
    to_address="mila@customer.example",
    to_name="Mila",
    locale=None,
    time_zone=None,
    created_at=MOMENT,
    thread=(),
    messages=(ContentMessage(2, "Robin", "It is on its way.", MOMENT),),
)
HEADERS = [
    "Date",
    "From",
    "To",
    "Subject",
    "Message-ID",
    "In-Reply-To",
    "References",
    "List-Id",
    "Auto-Submitted",
    "X-Auto-Response-Suppress",
    "MIME-Version",
    "Content-Type",
]


def parsed(content: EmailContent = CONTENT, brand: Brand = BRAND) -> EmailMessage:
    message = message_from_bytes(compose(content, brand), policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def header(message: EmailMessage, name: str) -> str:
    """Decode a header with the legacy decoder: that of policy.default loses spaces between encoded words."""
    raw = dict(message.raw_items())[name]
    return str(make_header(decode_header(raw.replace("\r\n", "").replace("\n", ""))))


def part(message: EmailMessage, kind: str) -> str:
    body = message.get_body((kind,))
    assert isinstance(body, EmailMessage)
    content: str = body.get_content()
    return content.replace("\r\n", "\n")


def with_body(body: str, **changes: Any) -> EmailContent:
    return replace(CONTENT, messages=(ContentMessage(2, "Robin", body, MOMENT),), **changes)


class Page(HTMLParser):
    """The elements of a page, and each message's visible text: line breaks and blocks become lines."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.bodies: list[str] = []
        self._depth = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "div" and (self._depth or ("class", "body") in attrs):
            self._depth += 1
            if self._depth == 1:
                self.bodies.append("")
        elif tag == "br" and self._depth:
            self.bodies[-1] += "\n"

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self._depth:
            self._depth -= 1
            if self._depth == 1:  # the end of a block, where a trailing line break is invisible
                self.bodies[-1] = self.bodies[-1].removesuffix("\n") + "\n"
            elif self.bodies[-1].endswith("\n"):
                self.bodies[-1] = self.bodies[-1][:-1]

    def handle_data(self, data: str) -> None:
        if self._depth:
            assert not re.search("  |^ |\n", data), "a browser collapses spaces that are not in the markup"
            self.bodies[-1] += data.replace("\xa0", " ")


def test_an_email_has_the_headers_of_the_contract() -> None:
    message = parsed()
    assert message.keys() == HEADERS
    assert message["Subject"] == "Where is my parcel?"
    assert message["From"] == "Hazel & Birch <no-reply@shop.example>"
    assert message["To"] == "Mila <mila@customer.example>"
    assert message["Date"].datetime == MOMENT
    assert message["Message-ID"] == "<one@shop.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Auto-Response-Suppress"] == "All"
    assert message["List-Id"] == "<customer-messages.shop.example>"
    assert message.get_content_type() == "multipart/alternative"


def test_a_local_part_with_unusual_dots_is_quoted() -> None:
    raw = compose(replace(CONTENT, to_address="mila..@docomo.example", to_name=None), BRAND)
    assert b'\r\nTo: "mila.."@docomo.example\r\n' in raw


def test_the_same_content_gives_the_same_bytes() -> None:
    assert compose(CONTENT, BRAND) == compose(CONTENT, BRAND)


def test_both_parts_show_the_message_its_sender_and_the_link() -> None:
    message = parsed()
    for kind in ("plain", "html"):
        for shown in ("It is on its way.", "Robin", LINK):
            assert shown in part(message, kind)


def test_files_are_named_with_links_and_not_contained() -> None:
    files = [ContentFile(UUID(int=1), "photo <i>.jpg", 1_234_567), ContentFile(UUID(int=2), "a\u2028b.txt", 12)]
    message = parsed(replace(CONTENT, messages=(ContentMessage(2, "Robin", "", MOMENT, files),)))
    link = "https://shop.example/attachments/00000000-0000-0000-0000-00000000000"
    plain, html = part(message, "plain"), part(message, "html")
    assert f"photo <i>.jpg (1.2 MB):\n{link}1\n" in plain
    assert f"a b.txt (12 bytes):\n{link}2\n" in plain
    assert f'<a href="{link}1"' in html
    assert "photo &lt;i&gt;.jpg" in html
    assert "<i>" not in html
    assert 'class="body"' not in html
    assert "photo &lt;i&gt;.jpg" in html[: html.index("</div>")], "the preview"
    assert {piece.get_content_type() for piece in message.iter_parts()} == {"text/plain", "text/html"}


def test_a_support_email_shows_the_customer_and_links_to_the_admin_page() -> None:
    message = parsed(replace(CONTENT, audience="support", from_name="Mila", to_name=None))
    assert message["From"] == '"Mila (Hazel & Birch)" <no-reply@shop.example>'
    assert message["To"] == "mila@customer.example"
    assert f"https://shop.example/admin/dashboard/conversation/{CONVERSATION}/" in part(message, "plain")
    assert "Mila sent a message to Hazel & Birch" in part(message, "plain")


def test_a_support_email_always_says_that_email_replies_do_not_reach_the_customer() -> None:
    message = parsed(replace(CONTENT, audience="support"), replace(BRAND, reply_to="team@shop.example"))
    assert message["Reply-To"] is None
    assert part(message, "plain").count("don't reach the customer") == 1


@pytest.mark.parametrize("kind", ["plain", "html"])
def test_without_reply_to_an_email_says_once_below_the_message_where_to_reply(kind: str) -> None:
    before, after = part(parsed(), kind).split("It is on its way.")[-2:]
    assert "email replies are not read" not in before
    assert after.count("email replies are not read") == 1
    assert LINK in after


@pytest.mark.parametrize(
    ("email_from", "name"),
    [
        ("no-reply@shop.example", "Hazel & Birch"),
        ("Hazel Support <no-reply@shop.example>", "Hazel Support"),
        ('"Hazel, Inc." <no-reply@shop.example>', "Hazel, Inc."),
        ("Hazel, Inc. <no-reply@shop.example>", "Hazel, Inc."),
        ("Büro 😀 <no-reply@shop.example>", "Büro 😀"),
        ("<no-reply@shop.example>", "Hazel & Birch"),
    ],
)
def test_the_sender_has_the_name_of_the_setting_or_else_the_stores_name(email_from: str, name: str) -> None:
    brand = replace(BRAND, email_from=email_from, reply_to=email_from)
    message = parsed(CONTENT, brand)
    for field in ("From", "Reply-To"):
        assert parseaddr(header(message, field)) == (name, "no-reply@shop.example")
    to_support = parsed(replace(CONTENT, audience="support", from_name="Mila"), brand)
    assert parseaddr(header(to_support, "From"))[0] == f"Mila ({name})"


def test_with_reply_to_replies_go_there_and_no_notice_warns_against_them() -> None:
    message = parsed(CONTENT, replace(BRAND, reply_to="Team <team@shop.example>"))
    assert message["Reply-To"] == "Team <team@shop.example>"
    for kind in ("plain", "html"):
        assert "not read" not in part(message, kind)
        assert LINK in part(message, kind)


def test_all_emails_of_a_conversation_refer_to_one_root() -> None:
    first = parsed()
    later = parsed(
        replace(CONTENT, message_id="<three@shop.example>", thread=["<one@shop.example>", "<two@shop.example>"])
    )
    root = first["References"]
    assert first["In-Reply-To"] == root
    assert later["References"] == f"{root} <two@shop.example>"
    assert later["In-Reply-To"] == "<two@shop.example>"
    assert later["Subject"] == first["Subject"]
    assert parsed(replace(CONTENT, audience="support"))["References"] != root
    assert parsed(replace(CONTENT, conversation_id=UUID(int=1)))["References"] != root


@given(
    st.uuids(), st.lists(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?", fullmatch=True), min_size=1, max_size=3)
)
def test_ids_are_short_stable_and_never_encoded(email_id: UUID, labels: list[str]) -> None:
    email_from = f"Store <no-reply@{'.'.join(labels)}>"
    made = message_id(email_id, email_from)
    assert made == message_id(email_id, email_from)
    assert re.fullmatch(rf"<{email_id.hex}@[a-z0-9.-]+>", made)
    assert len(made) <= 70
    raw = compose(replace(CONTENT, message_id=made, thread=[made]), replace(BRAND, email_from=email_from))
    assert f"\r\nMessage-ID: {made}\r\nIn-Reply-To: {made}\r\nReferences: <".encode() in raw


HOSTILE = st.text(
    st.sampled_from("\r\n\t\0\x0b\x0c\x1c\x85\u2028\u2029\u202e\u2066\ud800:;,<>@\"'\\()=?é😀 aBcc"), max_size=200
)
ANY_TEXT = st.text(st.characters(), max_size=200) | HOSTILE


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
@example("x\r\nBcc: y@z.example", '"\r\n <y@z.example>, ', "\r\n.\r\nMAIL FROM:<a@b>\r\n", "=?utf-8?q?=0ABcc:_x?=")
def test_no_user_text_adds_a_header_or_an_address_or_exceeds_the_line_length(
    subject: str, name: str, body: str, store: str
) -> None:
    content = with_body(body, subject=subject, to_name=name, audience="support", from_name=name)
    raw = compose(content, replace(BRAND, store_name=store))
    message = message_from_bytes(raw, policy=policy.default)
    assert message.keys() == HEADERS
    for address_header, address in (("From", "no-reply@shop.example"), ("To", "mila@customer.example")):
        assert [parsed_address.addr_spec for parsed_address in message[address_header].addresses] == [address]
    assert raw.isascii()
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs", "Cf"]), min_size=1, max_size=100))
@example("Ünïcödé wörds, 你好 and 📦 parcels " * 3)
@example("=?utf-8?q?Hello?=")
@example('back\\slash and "quotes"')
@example("नमस्ते दुनिया " * 7)
def test_subject_and_names_are_decoded_as_they_were_given(text: str) -> None:
    text = " ".join(text.split())
    message = parsed(replace(CONTENT, subject=text), replace(BRAND, store_name=text))
    assert header(message, "Subject") == text
    shown = header(message, "From").removesuffix(" <no-reply@shop.example>")
    quoted = re.fullmatch(r'"(.*)"', shown)
    unescaped = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted and text.isascii() and "=?" not in text else shown
    assert unescaped == text


@given(
    st.text(
        st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], include_characters="\n"), min_size=1, max_size=500
    )
)
@example("<script>alert(1)</script> & <b>bold</b> {{ 7 * 7 }} {% raw %}")
@example("line one\n\n    indented 📦\n\u05e9\u05dc\u05d5\u05dd مرحبا e\u0301")
@example("x" * 10_000)
@example("😀" * 10_000)
@example("</div></td></tr></table><img src=https://evil.example/x.png>")
def test_the_text_appears_in_both_parts_and_is_never_interpreted_as_markup(typed: str) -> None:
    body = re.sub(r"(?m)^--\s+$", "--", typed.strip() or "-")
    message = parsed(with_body(body))
    assert body in part(message, "plain")
    page = Page(part(message, "html"))
    assert page.bodies == [body.replace("\xa0", " ")]
    assert not {"script", "img", "b", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert all(attributes["href"] == LINK for tag, attributes in page.tags if tag == "a")


def test_every_kind_of_line_break_is_kept_and_other_control_characters_are_dropped() -> None:
    message = parsed(with_body("a\r\nb\rc\n\nd\u2028e\tf\x1b[31mg\x07"))
    expected = "a\nb\nc\n\nd\ne\tf[31mg"
    assert expected in part(message, "plain")
    assert Page(part(message, "html")).bodies == [expected.replace("\t", " " * 4)]


def test_the_html_loads_nothing_and_follows_the_direction_of_the_text() -> None:
    html = part(parsed(with_body("שלום")), "html")
    body = next(attributes for tag, attributes in Page(html).tags if attributes.get("class") == "body")
    assert body["dir"] == "auto"
    assert "prefers-color-scheme: dark" in html
    assert "max-width: 600px" in html
    assert not re.search(r"src=|@import|url\(", html)


def test_a_name_in_another_script_does_not_reorder_the_sentence_around_it() -> None:
    message = parsed(replace(CONTENT, audience="support", from_name="מילה <b>"))
    assert "<bdi>מילה &lt;b&gt;</bdi> sent a message to <bdi>Hazel &amp; Birch</bdi>" in part(message, "html")
    assert "מילה <b> sent a message to Hazel & Birch" in part(message, "plain")


def test_the_hidden_preview_is_cut_after_a_word_and_never_inside_an_emoji() -> None:
    shown = re.findall(r'<div class="preview"[^>]*>([^<]*)<', part(parsed(with_body("parcel " * 40)), "html"))
    assert shown == ["parcel " * 19 + "parcel…"]
    shown = re.findall(r'<div class="preview"[^>]*>([^<]*)<', part(parsed(with_body("👩‍💻" * 80)), "html"))
    assert shown == ["👩‍💻" * 46 + "…"]


def test_the_subject_is_a_link_and_a_long_email_has_another_link_before_its_messages() -> None:
    messages = [ContentMessage(number, "Robin", "word " * 2000, MOMENT) for number in range(4)]
    short, long = parsed(), parsed(replace(CONTENT, messages=messages))
    for message in (short, long):
        assert LINK in part(message, "html").partition("sent you a message")[0]
    for kind in ("plain", "html"):
        above = part(long, kind).partition("Robin")[0]
        assert "View and reply" in above
        assert LINK in above
        assert "View and reply" not in part(short, kind).partition("Robin")[0]


@pytest.mark.parametrize(("body", "encoding"), [("Grüße", "quoted-printable"), ("您好" * 5000, "base64")])
def test_a_part_uses_the_shorter_encoding(body: str, encoding: str) -> None:
    message = parsed(with_body(body))
    assert {part["Content-Transfer-Encoding"] for part in message.iter_parts()} == {encoding}
    assert body in part(message, "plain")


def test_every_message_has_inline_styles_for_clients_that_ignore_style_sheets() -> None:
    html = part(
        parsed(replace(CONTENT, messages=[ContentMessage(n, "Robin", "Hello", MOMENT) for n in (2, 3)])), "html"
    )
    styled = [attributes for _, attributes in Page(html).tags if "class" in attributes]
    assert [attributes["class"] for attributes in styled].count("message") == 2
    assert all(attributes.get("style") for attributes in styled)
    assert "border-top" not in html.partition("<body")[0]
    assert html.index('<meta charset="utf-8">') < 1024 - len('<meta charset="utf-8">')


@pytest.mark.parametrize(
    ("locale", "headline", "notice"),
    [
        ("en-GB", "sent you a message", "email replies are not read"),
        ("de_AT", "hat Ihnen geschrieben", "Antworten per E-Mail werden nicht gelesen"),
        ("fr", "vous a écrit", "les réponses par e-mail ne sont pas lues"),
        ("es-MX", "le ha escrito", "las respuestas por correo no se leen"),
        ("nl", "heeft u geschreven", "antwoorden per e-mail worden niet gelezen"),
    ],
)
def test_an_email_is_in_the_recipients_language(locale: str, headline: str, notice: str) -> None:
    message = parsed(replace(CONTENT, locale=locale))
    for kind in ("plain", "html"):
        assert headline in part(message, kind)
        assert notice in part(message, kind)
    assert f'<html lang="{locale[:2]}">' in part(message, "html")


@pytest.mark.parametrize("unknown", [None, "", "xx", "klingon", "../../etc/passwd", "de\0", "\ud800", "😀" * 300])
def test_with_an_unknown_language_or_zone_the_brands_is_used_and_else_english_in_utc(unknown: str | None) -> None:
    content = replace(CONTENT, locale=unknown, time_zone=unknown)
    text = part(parsed(content, replace(BRAND, locale="nl-NL", time_zone="Europe/Amsterdam")), "plain")
    assert "heeft u geschreven" in text
    assert "3 jul 2026, 23:05 CEST" in text
    text = part(parsed(content, replace(BRAND, locale=unknown or "", time_zone=unknown or "")), "plain")
    assert "Jul 3, 2026, 9:05\u202fPM UTC" in text


@pytest.mark.parametrize(
    ("locale", "zone", "shown"),
    [
        ("de", "Europe/Berlin", "03.07.2026, 23:05 MESZ"),
        ("en-GB", "Asia/Kolkata", "4 Jul 2026, 02:35 GMT+05:30"),
        ("fr", "America/New_York", "3 juil. 2026, 17:05"),
        ("es", "America", "3 jul 2026, 21:05 UTC"),
    ],
)
def test_times_are_in_the_recipients_time_zone(locale: str, zone: str, shown: str) -> None:
    message = parsed(replace(CONTENT, locale=locale, time_zone=zone))
    for kind in ("plain", "html"):
        assert shown in part(message, kind)


def test_an_international_address_is_written_with_an_ascii_domain() -> None:
    raw = compose(replace(CONTENT, to_address="zoë@straße.example"), BRAND)
    assert "<zoë@xn--strae-oqa.example>\r\n".encode() in raw


@pytest.mark.parametrize(
    "address", ["", "nobody", "a@b.example, c@d.example", "a@b.example>\r\nBcc: <c@d.example", "a b@c"]
)
def test_anything_but_one_address_is_rejected(address: str) -> None:
    with pytest.raises(ValueError, match="not a valid email address"):
        compose(replace(CONTENT, to_address=address), BRAND)


def test_both_ways_to_unsubscribe_are_in_one_header_of_short_lines() -> None:
    link, address = f"https://{'shop.' * 20}example/links/{'x' * 43}", f"leave+{'a' * 52}@{'in.' * 20}shop.example"
    sent = compose(replace(CONTENT, unsubscribe_link=link, unsubscribe_address=address), BRAND)
    [header] = re.findall(rb"\r\n(List-Unsubscribe: .*(?:\r\n .*)*)\r\n", sent)
    assert header == f"List-Unsubscribe: <{link}>,\r\n <mailto:{address}?subject=unsubscribe>".encode()
    assert message_from_bytes(sent, policy=policy.default)["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


@pytest.mark.parametrize("audience", ["customer", "support"])
@pytest.mark.parametrize("locale", ["en", "de", "es", "fr", "nl"])
def test_the_whole_email_in_both_forms_is_recognised_as_ours(
    audience: Literal["customer", "support"], locale: str
) -> None:
    link = "https://shop.example/notifications/links/x" if audience == "customer" else None
    content = replace(
        CONTENT, audience=audience, locale=locale, reply_to="reply+x@in.store.example", unsubscribe_link=link
    )
    composed, fingerprints = compose_with_fingerprints(content, BRAND)
    ours = Fingerprints([fingerprints])
    known = Known(
        ["no-reply@shop.example", "in.store.example"], [BRAND.store_name], [], content.subject, ["shop.example"]
    )
    parsed = parse_email(composed)
    [html] = [part for part in parsed.texts if part.is_html]
    quote = "<blockquote>" + html.text.partition("<body>")[2].partition("</body>")[0] + "</blockquote>"
    assert cut(html_lines(f"<p>Mine.</p>{quote}"), ours, known).text == "Mine."
