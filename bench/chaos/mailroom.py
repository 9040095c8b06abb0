"""The customers' mail server: it counts the emails, and keeps none."""

import re
from collections import Counter
from dataclasses import dataclass, field

from tests.helpers.smtp_server import ReceivedEmail, SmtpServer

_MESSAGE_ID = re.compile(rb"^Message-ID: *(\S+)", re.MULTILINE | re.IGNORECASE)
_TOKEN = re.compile(rb"chaos-([0-9a-f]{16})")
_REPLY_TO = re.compile(rb"^Reply-To:[^<]*<(reply\+[^>]+)>", re.MULTILINE | re.IGNORECASE)
_CONVERSATION = re.compile(rb"/dashboard/messages/([0-9a-f-]{36})/")


@dataclass(frozen=True)
class CaughtEmail:
    """An email that can be answered."""

    conversation: str
    recipient: str
    reply_to: str


@dataclass
class Mailroom(SmtpServer):
    """A mail server that counts the copies of each email, and remembers the messages in them."""

    copies: Counter[str] = field(default_factory=Counter)  # by Message-ID
    tokens: set[str] = field(default_factory=set)  # of messages
    caught: dict[str, CaughtEmail] = field(default_factory=dict)  # the newest one, by conversation

    def keep(self, email: ReceivedEmail) -> None:
        """Count an email."""
        match = _MESSAGE_ID.search(email.content)
        self.copies[match[1].decode() if match else ""] += 1
        self.tokens.update(token.decode() for token in _TOKEN.findall(email.content))
        reply_to, conversation = _REPLY_TO.search(email.content), _CONVERSATION.search(_joined(email.content))
        if reply_to and conversation:
            caught = CaughtEmail(conversation[1].decode(), email.recipients[0], reply_to[1].decode())
            self.caught[caught.conversation] = caught
        self.commands.clear()


def _joined(content: bytes) -> bytes:
    """Join the lines that quoted-printable broke."""
    return content.replace(b"=\r\n", b"").replace(b"=\n", b"")
