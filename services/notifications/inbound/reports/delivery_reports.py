"""Read what a mail server reports about an email of ours: RFC 3464, RFC 6533, and the usual texts of those without.

Only the outer report counts. Libraries that look for one anywhere take a customer's email with a report attached for
a report, and read nothing of RFC 6533.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from enum import StrEnum
from typing import Final

from services.notifications.inbound.loops import envelope_mailbox, sender_mailbox
from services.notifications.inbound.parsing.mime import header_of
from services.notifications.inbound.reports.report_parts import Fields, Part, read_blocks
from services.notifications.mail.replies import one_line, without_addresses

_STATUS_PARTS: Final = {"message/delivery-status", "message/global-delivery-status"}
_STATUS = re.compile(r"(?<![\w.])(?<![^\W\d]-)([245])\.(\d{1,3})\.(\d{1,3})(?!\.?\w)")
_CODE = re.compile(r"(?<![\w.])[45]\d\d(?=[ \-])")
_ESCAPED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")  # RFC 6533: a character in an ASCII report
_SYSTEM: Final = {"mailer-daemon", "postmaster", "mail-daemon", "mailerdaemon", "mdaemon", "mmdf", "mail.daemon"}
# What mail servers write at the beginning of a report without fields, and before the copy of the email.
_FAILED = re.compile(
    r"\bundeliver(ed|able)|returned (mail|to sender)|returning message|failure notice|delivery (has )?(failed|failure)"
    r"|delivery to the following recipients? (has )?failed|failed permanently|permanent(ly)? (fatal )?(error|fail)"
    r"|(not|n't|unable to|un-?able|cannot|impossible to) (be )?deliver(ed)?\b|not able to deliver|wasn't delivered"
    r"|did not reach|non-?delivery|mail delivery (problem|failed)|fatal errors",
    re.IGNORECASE,
)
_DELAYED = re.compile(
    r"\bdelayed\b|could not send message for|not (yet )?been delivered (yet|so far)?.{0,80}(will|still)|still being"
    r"|(need|have) to (resend|do anything)|will (be retried|keep trying|be re-?tried|try again|continue to)|warning:",
    re.IGNORECASE | re.DOTALL,
)
_COPY = re.compile(
    r"^[ \t>-]*(-{2,}\s*below this line is a copy|-{3,} this is a copy of|-{2,} ?original (message|header|text)"
    r"|-{3,} (the )?(header|body|copy) of|-{3,} the body of|-{2,} ?returned (message|mail)|-{2,} ?message header"
    r"|original message (follows|headers?)|return-path:|received: )",
    re.IGNORECASE | re.MULTILINE,
)


class Action(StrEnum):
    """What became of an email, by RFC 3464."""

    FAILED = "failed"
    DELAYED = "delayed"
    ARRIVED = "arrived"
    """It was delivered, relayed or expanded."""


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What a mail server says about one recipient of an email.

    `status` is that of the report; `diagnostic` what the recipient's server said, and `text` what the report says to
    people, both without addresses. `recipient` is whom it names, `host` the server that failed.
    """

    action: Action
    status: str = ""
    diagnostic: str = ""
    text: str = ""
    recipient: str = ""
    host: str = ""


def read_report(headers: Message, parts: Sequence[Part], address: str | None) -> DeliveryReport | None:
    """Return what an email reports about a recipient; None if it is no report. Of several the one about `address`."""
    human = _cut(next((part.text for part in parts if part.kind in {"text/plain", "text/html"}), ""))
    status = next((part for part in parts if part.kind in _STATUS_PARTS), None)
    if status is not None and header_of(headers, "content-type").lower().startswith("multipart/"):
        return _of_fields(read_blocks(status.text), human, address)
    return _of_text(headers, human)


def statuses(text: str) -> list[str]:
    """Return the enhanced status codes in a text, without those in addresses, and no version or IP address."""
    return [".".join(found) for found in _STATUS.findall(without_addresses(text))]


def _of_fields(blocks: Sequence[Fields], human: str, address: str | None) -> DeliveryReport | None:
    about = blocks[0] if blocks else {}
    recipients = [block for block in blocks if "action" in block or "status" in block]
    if not recipients:
        return None
    named = [(block, _recipients(block)) for block in recipients]
    mailbox = envelope_mailbox(address) if address is not None else None
    ours = [block for block, names in named if mailbox is not None and mailbox in map(envelope_mailbox, names)]
    # Of the others, one that failed says more than one that has arrived: the address may stand for several people.
    block = min(ours or recipients, key=lambda each: _ORDER.index(_action(each)))
    names = _recipients(block)
    host = _value(block.get("remote-mta", "")) or _value(about.get("reporting-mta", ""))
    return DeliveryReport(
        _action(block),
        next(iter(statuses(block.get("status", ""))), ""),
        one_line(without_addresses(_value(block.get("diagnostic-code", "")))),
        without_addresses(human),
        address if ours and address is not None else next(iter(names), ""),
        host if re.fullmatch(r"[A-Za-z0-9._:\[\]-]{1,100}", host) else "",
    )


_ORDER: Final = (Action.FAILED, Action.DELAYED, Action.ARRIVED)


def _action(block: Fields) -> Action:
    match = re.match(r"[a-z]+", block.get("action", "").lower())
    status = next(iter(statuses(block.get("status", ""))), "")
    word = match[0] if match else {"5": "failed", "4": "delayed"}.get(status[:1], "")
    return {"failed": Action.FAILED, "delayed": Action.DELAYED}.get(word, Action.ARRIVED)


def _recipients(block: Fields) -> list[str]:
    """Return whom a block is about: as the server that failed knows them, and as we wrote them."""
    values = (_value(block[name]) for name in ("final-recipient", "original-recipient") if name in block)
    return [value for value in values if "@" in value]


def _value(field: str) -> str:
    """Return the value of a field that begins with its type: `rfc822; anna@customer.example`."""
    kind, separator, value = field.partition(";")
    value = (value if separator and re.fullmatch(r"[\w.-]+", kind.strip()) else field).strip()
    value = _ESCAPED.sub(lambda match: _character(match[1]), value)
    return value[1:-1] if value.startswith("<") and value.endswith(">") else value


def _character(digits: str) -> str:
    try:
        return chr(int(digits, 16)).encode().decode()
    except (ValueError, OverflowError):  # no character, or half of one
        return "\ufffd"


def _of_text(headers: Message, human: str) -> DeliveryReport | None:
    """Read a report without fields, from a mail server's own address: a program that answers may say anything."""
    local = (sender_mailbox(headers) or "").rpartition("@")[0]
    failed_for = header_of(headers, "x-failed-recipients")
    if local not in _SYSTEM and not failed_for:
        return None
    subject = header_of(headers, "subject")
    text = f"{subject}\n{human}"
    if not failed_for and _DELAYED.search(text) is not None and "permanent" not in text.lower():
        return DeliveryReport(Action.DELAYED)
    if not failed_for and _FAILED.search(text) is None:
        return None
    said = _said(human)
    found = [*statuses(said), *statuses(human)]
    return DeliveryReport(
        Action.FAILED, next(iter(found), ""), one_line(without_addresses(said)), without_addresses(human)
    )


def _said(human: str) -> str:
    """Return the line of a text with the reply of a server, or else what follows the recipient's address."""
    lines = [line.strip() for line in human.split("\n")]
    for position, line in enumerate(lines):
        if _CODE.search(without_addresses(line)) or statuses(line):
            return " ".join(lines[position : position + 3])
    at = next((position for position, line in enumerate(lines) if re.search(r"\S@\S", line)), None)
    return " ".join(lines[at : at + 4]) if at is not None else ""


def _cut(human: str) -> str:
    """Return the text of a report without the copy of our email, whose words say nothing about it."""
    match = _COPY.search(human)
    return human[: match.start()] if match else human
