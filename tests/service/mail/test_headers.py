"""An email has only its own headers and its own recipient, no matter what names, texts and addresses users choose.

Each email is composed and sent to a real mail server, which records its commands and the emails.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.headerregistry import AddressHeader
from email.message import EmailMessage
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.notifications.mail.addresses import AddressError, ascii_domain_address
from services.notifications.mail.message import Brand, ContentMessage, EmailContent, compose
from services.notifications.mail.smtp import Attempt, SmtpConnection, SmtpServer
from services.notifications.rules import Outcome
from tests.helpers.smtp_server import ReceivedEmail, smtp_server
from tests.helpers.smtp_server import SmtpServer as Received

SENDER = "no-reply@shop.example"
MOMENT = datetime(2026, 7, 3, 21, 5, tzinfo=UTC)
BRAND = Brand("Hazel & Birch", f"Mailer <{SENDER}>", "https://shop.example", None, "UTC", "en")
CONTENT = EmailContent(
    message_id="<one@shop.example>",
    audience="customer",
    conversation_id=UUID(int=7),
    subject="Where is my parcel?",
    to_address="mila@customer.example",
    to_name="Mila",
    locale=None,
    time_zone=None,
    created_at=MOMENT,
    thread=(),
    messages=(ContentMessage(2, "Robin", "It is on its way.", MOMENT),),
)
ONCE = {"date", "from", "to", "subject", "message-id", "in-reply-to", "references", "list-id", "auto-submitted"}
ONCE |= {"x-auto-response-suppress", "mime-version", "content-type"}

HOSTILE = st.sampled_from(
    [
        "\r\nBcc: eve@evil.example",
        "\nRCPT TO:<eve@evil.example>\n",
        "\r\n.\r\nMAIL FROM:<eve@evil.example>\r\n",
        "\r\n\r\n<script>",
        "=?utf-8?q?=0D=0ABcc:_eve=40evil.example?=",
        "=?utf-8?b?DQpCY2M6IGV2ZUBldmlsLmV4YW1wbGU=?=",
        '" <eve@evil.example>, "',
        "<eve@evil.example>",
        "eve@evil.example,",
        "(comment)",
        "\\",
        "\0",
        "\x85\u2028\u2029",
        "\u202eelpmaxe.live@eve\u202c",
        "\u2066",
        "\ufeff",
        "é😀שלום",
        "\ud800",
        "a" * 900,
        " " * 80,
    ]
)
NAMES = st.lists(HOSTILE | st.text(max_size=20), max_size=5).map("".join)
ATOM = st.text(st.sampled_from("abcXYZ019!#$%&'*+-/=?^_`{|}~."), min_size=1, max_size=30)
LOCAL = ATOM | st.text(min_size=1, max_size=20) | st.just("=?utf-8?q?eve=40evil.example?=")
DOMAIN = st.sampled_from(["customer.example", "bücher.example", "例え.example", "x_y.example", "host", "[127.0.0.1]"])
WITH_MORE = st.builds("mila@customer.example{}".format, HOSTILE)
ADDRESSES = st.emails() | st.builds("{}@{}".format, LOCAL, DOMAIN) | WITH_MORE | NAMES


@dataclass(frozen=True)
class Link:
    """A connection to a mail server, and the event loop of both."""

    runner: asyncio.Runner
    server: Received
    connection: SmtpConnection

    def send(self, recipient: str, content: bytes) -> tuple[Attempt, list[str], list[ReceivedEmail]]:
        """Send an email; return its outcome, the envelope's commands, and the received emails."""
        self.server.commands.clear()
        self.server.emails.clear()
        outcome = self.runner.run(
            self.connection.send(sender=BRAND.email_from, recipient=recipient, content=content, before_data=_yes)
        )
        envelope = [line for line in self.server.commands if line.upper().startswith(("MAIL", "RCPT", "DATA"))]
        return outcome, envelope, list(self.server.emails)


async def _yes() -> bool:
    return True


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    with asyncio.Runner() as runner:
        running = smtp_server()
        server = runner.run(running.__aenter__())
        connection = SmtpConnection(SmtpServer("127.0.0.1", server.port, "none"))
        yield Link(runner, server, connection)
        runner.run(connection.close())
        runner.run(running.__aexit__(None, None, None))


def check_headers(content: bytes, address: str) -> None:
    """Check that an email has each header exactly once, no others, and only its own recipient and sender."""
    assert max(map(len, content.split(b"\r\n"))) <= 998
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert sorted(name.lower() for name in message) == sorted(ONCE)
    for name, expected in (("From", SENDER), ("To", address)):
        header = message[name]
        assert isinstance(header, AddressHeader)
        # Non-ASCII characters are UTF-8 here, which the parser keeps as they are.
        found = [parsed.addr_spec.encode(errors="surrogateescape").decode() for parsed in header.addresses]
        assert found == [expected]
    assert not set("\r\n\0\u2028\u2029\u202e\u2066") & set(str(message["Subject"]))


@given(subject=NAMES, name=NAMES, body=NAMES, store=NAMES)
@example("x\r\nBcc: eve@evil.example", '"\r\n <eve@evil.example>, ', "\r\n.\r\nRCPT TO:<a@b>\r\n", "\0")
def test_no_name_subject_or_text_adds_a_recipient(link: Link, subject: str, name: str, body: str, store: str) -> None:
    for audience in ("customer", "support"):
        email_content = replace(
            CONTENT,
            audience=audience,
            subject=subject,
            to_name=name,
            from_name=name,
            messages=(ContentMessage(1, name, body, MOMENT),),
        )
        content = compose(email_content, replace(BRAND, store_name=store))
        outcome, envelope, emails = link.send(email_content.to_address, content)
        assert outcome.outcome is Outcome.ACCEPTED
        assert envelope == [
            f"MAIL FROM:<{SENDER}> SIZE={len(content)}",
            f"RCPT TO:<{email_content.to_address}>",
            "DATA",
        ]
        assert [(email.sender, email.recipients, email.content) for email in emails] == [
            (SENDER, (email_content.to_address,), content)
        ]
        check_headers(content, email_content.to_address)


@given(address=ADDRESSES, name=NAMES)
@example("mila@customer.example\r\nRCPT TO:<eve@evil.example>", "Mila")
@example("mila@customer.example> NOTIFY=SUCCESS", "Mila")
@example("eve@evil.example,mila@customer.example", "Mila")
@example("=?utf-8?q?eve=40evil.example,?=@customer.example", "")
@example("@relay.example:mila@customer.example", "Mila")
@example(f"{'é' * 150}@{'ü' * 40}.example", "é" * 300)
def test_an_address_reaches_only_itself_or_is_rejected(link: Link, address: str, name: str) -> None:
    try:
        expected = ascii_domain_address(address)
    except AddressError:
        with pytest.raises(AddressError):
            compose(replace(CONTENT, to_address=address, to_name=name), BRAND)
        outcome, envelope, emails = link.send(address, compose(CONTENT, BRAND))
        assert (outcome.outcome, envelope, emails) == (Outcome.REJECTED, [], [])
        return
    content = compose(replace(CONTENT, to_address=address, to_name=name), BRAND)
    outcome, envelope, emails = link.send(address, content)
    assert outcome.outcome is Outcome.ACCEPTED
    local, _, domain = expected.rpartition("@")
    assert envelope[1:] in [[f"RCPT TO:<{expected}>", "DATA"], [f'RCPT TO:<"{local}"@{domain}>', "DATA"]]
    assert [email.recipients for email in emails] == [(expected,)]
    check_headers(content, expected)
