"""The customers' mail server: it counts what it got, and keeps none of it."""

import re
from collections import Counter
from dataclasses import dataclass, field

from tests.helpers.smtp_server import ReceivedEmail, SmtpServer

_MESSAGE_ID = re.compile(rb"^Message-ID: *(\S+)", re.MULTILINE | re.IGNORECASE)
_TOKEN = re.compile(rb"chaos-([0-9a-f]{16})")


@dataclass
class Mailroom(SmtpServer):
    """A mail server that remembers how often it got which mail, and what was told in any."""

    copies: Counter[str] = field(default_factory=Counter)  # by Message-ID
    told: set[str] = field(default_factory=set)  # tokens of messages

    def keep(self, mail: ReceivedEmail) -> None:
        """Count a mail."""
        found = _MESSAGE_ID.search(mail.content)
        self.copies[found[1].decode() if found else ""] += 1
        self.told.update(token.decode() for token in _TOKEN.findall(mail.content))
        self.commands.clear()
