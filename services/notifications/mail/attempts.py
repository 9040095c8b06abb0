"""One attempt to send an email: the phase it reached and its outcome."""

from dataclasses import dataclass
from enum import StrEnum

from services.notifications.rules import Outcome, Reason


class Phase(StrEnum):
    """The last phase that an attempt reached."""

    COMPOSE = "compose"
    """The email could not be rendered; no server was contacted."""
    ADDRESS = "address"
    """The address is invalid or not supported; it was not sent to the server."""
    SIZE = "size"
    """The email is larger than the server announced to accept; it was not sent to the server."""
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
    REPORT = "report"
    """None of ours: what a mail server reported after it had accepted the email."""
    LEASE = "lease"
    """Unknown: the sending process stopped before it recorded the result."""


OPENING = frozenset({Phase.CONNECT, Phase.BANNER, Phase.EHLO, Phase.STARTTLS, Phase.AUTH})
"""The phases in which a connection is opened."""
BEFORE_RECIPIENT = OPENING | {Phase.MAIL}
"""A failure in these phases is not about the email: any other one would have failed too."""
# In these phases the server may just have closed an idle connection.
BEFORE_FINAL_DOT = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.CONTENT})


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of an attempt: its outcome, the phase it reached, and the server's reply or the error."""

    outcome: Outcome
    phase: Phase
    code: int | None
    reply: str
    """One line of at most 500 characters."""
    rejection: Reason = Reason.REJECTED
    """The reason, if the email was rejected."""
    own: Outcome | None = None
    """The outcome if the email itself turns out to be the cause; None if it can't be."""
