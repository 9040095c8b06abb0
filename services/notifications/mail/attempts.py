"""One attempt to send an email: how far it came, and how it ended."""

from dataclasses import dataclass
from enum import StrEnum

from services.notifications.rules import Outcome, Reason


class Phase(StrEnum):
    """How far a try came."""

    COMPOSE = "compose"
    """Its text could not be made: nothing was said to any server."""
    ADDRESS = "address"
    SIZE = "size"
    """It is larger than the server announced to accept: this, and a wrong address, is not said to the server."""
    CONNECT = "connect"
    BANNER = "banner"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    END_OF_DATA = "end-of-data"
    LEASE = "lease"
    """Not known: the process that was sending is gone."""


OPENING = frozenset({Phase.CONNECT, Phase.BANNER, Phase.EHLO, Phase.STARTTLS, Phase.AUTH})
"""Before these have succeeded there is no connection that an email could be sent over."""
BEFORE_RECIPIENT = OPENING | {Phase.MAIL}
"""A failure here says nothing about the email: every other one would have failed too."""
# Up to here a break may be no more than the end of an idle connection.
BEFORE_THE_DOT = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.CONTENT})


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one try ended: the phase it came to, and the server's reply there or what went wrong."""

    outcome: Outcome
    phase: Phase
    code: int | None
    reply: str
    """One line of at most 500 characters."""
    rejection: Reason = Reason.REJECTED
    """Why the mail was rejected, if it was."""
    own: Outcome | None = None
    """What this means if the email itself turns out to be the cause; None when it cannot be."""
