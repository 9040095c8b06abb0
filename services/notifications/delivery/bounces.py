"""What follows from a report that an email did not arrive, in one transaction: for the email, for its address, for all.

Reports are forged easily by who has the email: its envelope sender is in it. So a report ends its own email once, opens
the breaker once a day for an address, and suppresses no address but that of its own email.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Row, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.attempts import process_name
from services.notifications.delivery.circuit_breaker import open_breaker
from services.notifications.delivery.suppression import HASH_SQL, Cause, suppress
from services.notifications.delivery.transitions import move_emails
from services.notifications.mail.addresses import mailbox_or_none
from services.notifications.mail.attempts import Attempt, Phase
from services.notifications.mail.replies import one_line
from services.notifications.models import Bounce, DeliveryAttempt, Email
from services.notifications.rules import (
    MAY_HAVE_ARRIVED_REASONS,
    MIN_BOUNCES,
    Audience,
    EmailState,
    Outcome,
    Reason,
    is_suppressing_suspended,
)
from shared.database.transactions import transaction_driver
from shared.process.failpoints import failpoint

log = structlog.get_logger()


class Consequence(StrEnum):
    """What a report means for emails after this one."""

    NOTHING = "nothing"
    SUPPRESS = "suppress"
    """No email reaches this address ever: none is sent to it any more."""
    SUPPRESS_ON_ANOTHER_DAY = "suppress-on-another-day"
    """The same, if the same was reported on an earlier day: the domain's name servers may be at fault."""
    SUPPRESS_ON_SECOND = "suppress-on-second"
    """The same, if it is not the first such report about the address."""
    OPEN_BREAKER = "open-breaker"
    """Our sender or our set-up is refused. The recipient is not at fault."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an email did not arrive, by which status, and what follows. `permanent`: it would fail again."""

    reason: Reason
    status: str
    consequence: Consequence
    permanent: bool = True


class Effect(StrEnum):
    """What a report has changed."""

    NOTHING = "nothing"
    """Its email cannot have been sent, or has bounced already."""
    BOUNCED = "bounced"
    SUPPRESSED = "suppressed"
    """The same, and its address is suppressed."""
    SUSPENDED = "suspended"
    """The same, but so many emails bounce that the cause may be ours: the address is not suppressed."""
    OPENED_BREAKER = "opened-breaker"


async def record_bounce(session: AsyncSession, email_id: UUID, verdict: Verdict, said: str, host: str) -> Effect:
    """Record that an email did not arrive. `said` are words of the report without addresses, `host` a server."""
    # One report at a time, so that the second about an address sees the first, and each is counted.
    await session.execute(_ONE_AT_A_TIME)
    email = await session.get_one(Email, email_id, with_for_update=True)
    audience, recipient_id, address = Audience(email.audience), email.recipient_id, email.to_address
    moved = await move_emails(
        session, _may_have_arrived(email_id), EmailState.BOUNCED, {"reason": verdict.reason}, leaving=_LEAVING
    )
    if not moved:
        return Effect.NOTHING
    # Of an erased person no words are kept, which may name them.
    words = said if address is not None else ""
    reply = words if verdict.status in words else one_line(f"{verdict.status} {words}").rstrip()
    session.add(
        DeliveryAttempt(
            email_id=email_id,
            finished_at=func.clock_timestamp(),
            outcome=Outcome.BOUNCED,
            phase=Phase.REPORT,
            code=None,
            reply=reply,
            process=process_name(),
        )
    )
    await session.flush()
    address_hash = await _hash(session, address)
    past = (await session.execute(_PAST, {"hash": address_hash})).one()
    session.add(
        Bounce(
            email_id=email_id,
            address_hash=address_hash,
            status=verdict.status,
            reason=verdict.reason,
            consequence=verdict.consequence,
            permanent=verdict.permanent,
        )
    )
    await session.flush()
    failpoint("bounce-written")
    if verdict.consequence is Consequence.OPEN_BREAKER:
        if address_hash is None or past.opened_breaker:
            return Effect.BOUNCED
        await open_breaker(session, Attempt(Outcome.REFUSED, Phase.REPORT, None, reply), host)
        return Effect.OPENED_BREAKER
    # The address of the support inbox is a setting: an operator corrects it.
    if address_hash is None or audience is Audience.SUPPORT or not _suppresses(verdict.consequence, past):
        return Effect.BOUNCED
    if await is_suspended(session):
        log.warning("address not suppressed: too many emails bounce", email_id=str(email_id))
        return Effect.SUSPENDED
    cause = Cause(email_id, recipient_id, verdict.reason, verdict.status)
    return Effect.SUPPRESSED if await suppress(session, address_hash, cause) else Effect.BOUNCED


@dataclass(frozen=True, slots=True)
class BounceState:
    """The bounces of the last hour, by address: all, and refused senders. `suppressed` addresses up to 10,000."""

    bounced: int
    sent: int
    refused: int
    suppressed: int

    @property
    def is_suspended(self) -> bool:
        """Whether so many emails bounce that addresses are not suppressed."""
        return is_suppressing_suspended(self.bounced, self.sent)


async def read_state(session: AsyncSession) -> BounceState:
    """Read what operators should know of bounces."""
    bounced, sent = (await session.execute(_SHARE, {"least": MIN_BOUNCES})).one()
    refused, suppressed = (await session.execute(_REFUSED)).one()
    return BounceState(bounced, sent, refused, suppressed)


async def is_suspended(session: AsyncSession) -> bool:
    """Return whether so many emails bounced in the last hour that addresses are not suppressed."""
    bounced, sent = (await session.execute(_SHARE, {"least": MIN_BOUNCES})).one()
    return is_suppressing_suspended(bounced, sent)


def _may_have_arrived(email_id: UUID) -> Any:
    """Return the condition that a server may have accepted an email, whether or not we know its reply."""
    begun = (Email.state == EmailState.SENDING) & Email.data_at.is_not(None)
    uncertain = (Email.state == EmailState.SCHEDULED) & (Email.uncertain_tries > 0)
    doubtful = (Email.state == EmailState.FAILED) & Email.reason.in_(MAY_HAVE_ARRIVED_REASONS)
    return (Email.id == email_id) & ((Email.state == EmailState.SENT) | begun | uncertain | doubtful)


def _suppresses(consequence: Consequence, past: Row[Any]) -> bool:
    match consequence:
        case Consequence.SUPPRESS:
            return True
        case Consequence.SUPPRESS_ON_ANOTHER_DAY:
            return bool(past.on_another_day)
        case Consequence.SUPPRESS_ON_SECOND:
            return bool(past.before)
        case _:
            return False


async def _hash(session: AsyncSession, address: str | None) -> bytes | None:
    driver = await transaction_driver(session)
    found: bytes | None = await driver.fetchval(f"select {HASH_SQL} from gate", mailbox_or_none(address))  # noqa: S608 - a constant
    return found


_LEAVING: Final = (EmailState.SENT, EmailState.SENDING, EmailState.SCHEDULED, EmailState.FAILED)
_ONE_AT_A_TIME: Final = select(func.pg_advisory_xact_lock(func.hashtext("chats-bounces")))
# UUIDv7 ids are in the order of time.
_PAST: Final = text(f"""
    select
        coalesce(
            bool_or(consequence in ('{Consequence.SUPPRESS}', '{Consequence.SUPPRESS_ON_SECOND}')), false
        ) as before,
        coalesce(bool_or(
            consequence = '{Consequence.SUPPRESS_ON_ANOTHER_DAY}'
            and (uuid_extract_timestamp(id) at time zone 'UTC')::date < (clock_timestamp() at time zone 'UTC')::date
        ), false) as on_another_day,
        coalesce(bool_or(
            consequence = '{Consequence.OPEN_BREAKER}' and id > (select uuidv7(interval '-1 day'))
        ), false) as opened_breaker
    from bounces where address_hash = :hash
""")  # noqa: S608 - built from constants
_REFUSED: Final = text(f"""
    select (
        select count(distinct address_hash) from bounces
        where reason = '{Reason.SENDER_REFUSED}' and id > (select uuidv7(interval '-1 hour'))
    ), (select count(*) from (select from suppressions limit 10000) as counted)
""")  # noqa: S608 - built from constants
# No more attempts are counted than can make a difference.
_SHARE: Final = text("""
    with bounced as (
        select count(distinct coalesce(encode(address_hash, 'hex'), id::text)) as count from bounces
        where permanent and id > (select uuidv7(interval '-1 hour'))
    )
    select count, (
        select count(*) from (
            select from email_tries where outcome = 'accepted'
                and id between (select uuidv7(interval '-1 hour')) and (select uuidv7(interval '1 hour'))
            limit greatest(:least, 20 * bounced.count)
        ) as accepted
    ) as sent
    from bounced
""")
