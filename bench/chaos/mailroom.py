"""The customers' mail server: it counts the emails, and keeps none."""

import re
from collections import Counter
from dataclasses import dataclass, field

from tests.helpers.smtp_server import ReceivedEmail, SmtpServer

_MESSAGE_ID = re.compile(rb"^Message-ID: *(\S+)", re.MULTILINE | re.IGNORECASE)
_TOKEN = re.compile(rb"chaos-([0-9a-f]{16})")


@dataclass
class Mailroom(SmtpServer):
    """A mail server that counts the copies of each email, and remembers the messages in them."""

    copies: Counter[str] = field(default_factory=Counter)  # by Message-ID
    tokens: set[str] = field(default_factory=set)  # of messages

    def keep(self, email: ReceivedEmail) -> None:
        """Count an email."""
        match = _MESSAGE_ID.search(email.content)
        self.copies[match[1].decode() if match else ""] += 1
        self.tokens.update(token.decode() for token in _TOKEN.findall(email.content))
        self.commands.clear()
