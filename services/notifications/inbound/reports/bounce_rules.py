"""What follows from a report that an email failed: the reason that admins see, and what becomes of the address.

The status decides where it says something. Some servers write 5.0.0 for everything; then the reply of the recipient's
server decides, and else the text.
"""

import re
from typing import Final

from services.notifications.delivery.bounces import Consequence, Verdict
from services.notifications.inbound.reports.delivery_reports import DeliveryReport, statuses
from services.notifications.mail.replies import is_policy
from services.notifications.rules import Reason

_UNKNOWN_MAILBOX: Final = {"5.1.1", "5.1.3", "5.1.6", "5.1.10"}
_UNKNOWN_DOMAIN: Final = "5.1.2"
_DISABLED: Final = "5.2.1"
_FULL: Final = {"5.2.2", "4.2.2"}
_SENDER: Final = {"5.1.7", "5.1.8"}
_TOO_LARGE: Final = {"5.2.3", "5.3.4"}
# The detail 0 says nothing, and these are written for many things: what the server said in words decides.
_DECIDED_BY_WORDS = re.compile(r"5\.(\d+\.0|1\.\d+|2\.[14]|4\.\d+|5\.\d+)")


def _words(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_WORDS: Final = {
    Reason.MAILBOX_FULL: _words(
        r"\b(mail)?box (is |was )?(full|over)|over ?quota|quota (is |was |has been )?(exceeded|reached|full)",
        r"exceed\w* (the |his |her |their |its )?(storage|(mailbox |mail |disk )?quota|allowed size)",
        r"mailbox (size )?(limit )?exceed|insufficient (system )?storage|out of (storage|space)",
        r"not enough (storage|space)",
    ),
    Reason.NOT_IN_TIME: _words(
        r"retry time(out)? (not reached|exceeded)|retry timeout|retries? (timed out|exceeded)",
        r"too long in (the )?queue|(message|delivery( time)?|queue) (has )?(expired|timed out)|delivery timed? ?out",
        r"could not be delivered for",
    ),
    Reason.DOMAIN_UNKNOWN: _words(
        r"(host|domain)( or domain)?( name)? (was |is )?(not found|unknown|does not exist|doesn't exist)|nxdomain",
        r"unknown (host|domain)|no such (host|domain)|name service error|domain (has|have|with) no (mx|mail)",
        r"non-?existent (host|domain)|couldn't find any host|no (mail exchanger|mx record)|null ?mx",
        r"bad destination host",
    ),
    Reason.MAILBOX_DISABLED: _words(
        r"(account|mailbox|user|address) (is |has been |was )?(currently )?(temporarily )?"
        r"(disabled|inactive|suspended|closed|deactivated|not active|discontinued|locked)",
    ),
    Reason.MAILBOX_UNKNOWN: _words(
        r"(user|recipient|mailbox|account|address(ee)?|local[ -]part)( name)?( is| was)? (unknown|not (be )?found)",
        r"unknown (user|recipient|mailbox|account|address|local[ -]part)",
        r"no (such|known) (user|recipient|mailbox|person|account|address)|no mailbox (here )?by that name",
        r"(user|recipient|mailbox|account|address)( \S+)? (does(n't| not)|did not) exist|doesn't have an? \S+ account",
        r"not a (known|valid) (user|mailbox|recipient)|invalid (user|mailbox|recipient|local[ -]part)",
        r"undeliverable address|recipientnotfound|(isn't|not) listed|recipient address rejected: access denied",
        r"account that you tried to reach does not exist|not (our|a) customer|user not local|no user here",
    ),
    Reason.TOO_LARGE: _words(
        r"(message|email|mail|size)( is| was)? too (large|big|long)|(message )?size (limit )?exceed"
    ),
}
_BY_REASON: Final = {
    Reason.MAILBOX_UNKNOWN: Consequence.SUPPRESS,
    Reason.DOMAIN_UNKNOWN: Consequence.SUPPRESS_ON_ANOTHER_DAY,
    Reason.MAILBOX_DISABLED: Consequence.SUPPRESS_ON_SECOND,
    Reason.UNDELIVERABLE: Consequence.SUPPRESS_ON_SECOND,
    Reason.SENDER_REFUSED: Consequence.OPEN_BREAKER,
}


def judge(report: DeliveryReport, address: str | None) -> Verdict:
    """Return what follows from a report that an email to `address` failed; None if that was erased."""
    status = _decisive(report)
    reason = _reason(status, report)
    consequence = _BY_REASON.get(reason, Consequence.NOTHING)
    if reason is Reason.UNDELIVERABLE and not _DECIDED_BY_WORDS.fullmatch(status):
        consequence = Consequence.NOTHING  # about the email or the server, not about the address
    if consequence is Consequence.SUPPRESS and not _is_about(report.recipient, address):
        # The address was forwarded to one that does not exist: it may have a mailbox of its own.
        consequence = Consequence.SUPPRESS_ON_SECOND
    return Verdict(reason, status, consequence, permanent=status.startswith("5"))


def _decisive(report: DeliveryReport) -> str:
    """Return the status of a report, or a more precise one that the recipient's server gave."""
    if report.status.startswith("4") or (report.status and not report.status.endswith(".0")):
        return report.status
    said = [each for each in statuses(report.diagnostic) if each[0] == "4" or (each[0] == "5" and each[-2:] != ".0")]
    return next(iter(said), report.status or "5.0.0")


def _reason(status: str, report: DeliveryReport) -> Reason:  # noqa: PLR0911 - a return for each rule of the table
    if status.startswith("4"):
        return Reason.MAILBOX_FULL if status in _FULL else Reason.NOT_IN_TIME
    if status in _UNKNOWN_MAILBOX:
        return Reason.MAILBOX_UNKNOWN
    if status == _UNKNOWN_DOMAIN:
        return Reason.DOMAIN_UNKNOWN
    if status in _SENDER or status.startswith("5.7."):
        return Reason.SENDER_REFUSED
    if status in _FULL:
        return Reason.MAILBOX_FULL
    if status in _TOO_LARGE:
        return Reason.TOO_LARGE
    if _DECIDED_BY_WORDS.fullmatch(status) is None:
        return Reason.UNDELIVERABLE
    found = _by_words(report.diagnostic) or (_by_words(report.text) if not _says(report.diagnostic) else None)
    return found or (Reason.MAILBOX_DISABLED if status == _DISABLED else Reason.UNDELIVERABLE)


def _says(diagnostic: str) -> bool:
    """Return whether a diagnostic code has words: a number alone leaves it to the text."""
    return re.search(r"[A-Za-z]{3}", diagnostic) is not None


def _by_words(text: str) -> Reason | None:
    words = " ".join(text.split())
    for reason, pattern in _WORDS.items():
        if pattern.search(words):
            return reason
    return Reason.SENDER_REFUSED if is_policy(None, words) else None


def _is_about(recipient: str, address: str | None) -> bool:
    """Return whether a report is about our recipient: at the same domain, or at one above or below it."""
    if "@" not in recipient or address is None:
        return True
    theirs, ours = (text.rpartition("@")[2].lower().rstrip(".") for text in (recipient, address))
    return theirs == ours or theirs.endswith(f".{ours}") or ours.endswith(f".{theirs}")
