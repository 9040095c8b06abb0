"""Take in complaints: somebody has marked an email of ours as unwanted, and their provider reports it (RFC 5965).

They arrive at `abuse@domain`, or at the envelope sender of the email. What a report says of its email proves nothing:
it counts only with a token of ours, in its fields or in the headers of the email in it. Who has the email could turn
off emails by the link in it as well.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.attempts import process_name
from services.notifications.delivery.muting import Wish, set_muting
from services.notifications.inbound.parsing.mime import header_of
from services.notifications.inbound.reports.report_parts import Part, read_blocks
from services.notifications.mail.attempts import Phase
from services.notifications.mail.reply_addresses import read_bounce_address, read_own_reply_address
from services.notifications.models import DeliveryAttempt, Email, Person
from services.notifications.rules import Audience, Outcome

ABUSE: Final = "abuse"
_UNWANTED: Final = {"abuse", "fraud", "opt-out", "opt-out-list"}  # not `not-spam`, `auth-failure`, `virus`, `other`
_FEEDBACK: Final = "message/feedback-report"
_ORIGINAL: Final = {"message/rfc822", "message/global", "text/rfc822-headers", "message/rfc822-headers"}
_ADDRESS = re.compile(r"\b(?:bounce|reply)\+[a-z2-7]{52}\b", re.IGNORECASE)
MAX_HEADERS: Final = 64 * 1024  # bytes of the headers of the email in a report
MAX_TOKENS: Final = 20

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AbuseMailbox:
    """The address at which complaints arrive."""


def is_feedback(headers: Message, parts: Sequence[Part]) -> bool:
    """Return whether an email is a feedback report: itself, not something attached to it."""
    is_report = header_of(headers, "content-type").lower().startswith("multipart/report")
    return is_report and any(part.kind == _FEEDBACK for part in parts)


def is_complaint(parts: Sequence[Part]) -> bool:
    """Return whether a feedback report is a complaint, and not about a failed check or a mistake."""
    fields = next((part for part in parts if part.kind == _FEEDBACK), None)
    blocks = read_blocks(fields.text) if fields is not None else []
    return any(block.get("feedback-type", "").strip().lower() in _UNWANTED for block in blocks)


def find_complained(secret: str, parts: Sequence[Part]) -> UUID | None:
    """Return the id of the email that a complaint is about; None without a token that we made."""
    for address in _addresses(parts):
        found = read_bounce_address(secret, address) or read_own_reply_address(secret, address)
        if found is not None:
            return found
    return None


async def unsubscribe(session: AsyncSession, email_id: UUID) -> bool:
    """Turn off all emails to the customer who got an email, once for each email; return whether that was done.

    Emails to admins and to the support inbox go on: they are the store's own.
    """
    email = await session.get(Email, email_id, with_for_update=True)
    if email is None or email.audience != Audience.CUSTOMER or email.claimed_at is None:
        return False
    before = select(DeliveryAttempt.id).where(
        DeliveryAttempt.email_id == email_id, DeliveryAttempt.outcome == Outcome.COMPLAINED
    )
    person = await session.get(Person, email.recipient_id)
    if person is None or person.deleted or await session.scalar(before.limit(1)) is not None:
        return False
    session.add(
        DeliveryAttempt(
            email_id=email_id,
            finished_at=func.clock_timestamp(),
            outcome=Outcome.COMPLAINED,
            phase=Phase.REPORT,
            code=None,
            reply="",
            process=process_name(),
        )
    )
    await set_muting(session, email.recipient_id, None, Wish.EVERYTHING)
    return True


def _addresses(parts: Sequence[Part]) -> Iterator[str]:
    texts = [part.text for part in parts if part.kind == _FEEDBACK]
    for part in parts:
        if part.kind in _ORIGINAL:
            head = re.split(rb"\r?\n\r?\n", part.content[:MAX_HEADERS].lstrip(b"\r\n"), maxsplit=1)[0]
            texts.append(re.sub(r"\r?\n[ \t]", "", head.decode("ascii", "replace")))
    found = (match[0] for text in texts for match in _ADDRESS.finditer(text))
    yield from list(dict.fromkeys(found))[:MAX_TOKENS]
