"""Who may send a mail, and what became of it: claims with a lease, the breaker, the record of each try.

A process may die at any line. Before `data_at` is committed nothing can have reached the mail server, and the mail
goes back at no cost; after it the server may have the mail, and the try is uncertain.
"""

import os
import random
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy import ColumnElement, Text, exists, func, literal_column, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from services.notifications.emails import cancel_emails, is_unread, move_emails, recipient_address, suppression
from services.notifications.letters import compose_email
from services.notifications.mail.addresses import AddressError
from services.notifications.mail.transport import Phase, Try
from services.notifications.models import Email, EmailMessage, EmailTry, Gate, Person
from services.notifications.rules import (
    Audience,
    EmailState,
    Outcome,
    Reason,
    after_try,
    breaker_pause,
    retry_delays,
    with_jitter,
)
from services.notifications.settings import MailSettings
from shared.database import incarnation_of
from shared.failpoints import failpoint

LEASE = timedelta(seconds=60)  # that a claim holds without being renewed
BATCH = 20  # mails claimed at once
COMPOSE_AGAIN = timedelta(hours=1)  # until a mail that could not be composed is looked at again

PROCESS = f"{socket.gethostname()}:{os.getpid()}"

_HERE = literal_column(incarnation_of("gate"), Text)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ClaimedEmail:
    """A mail that this process holds, with the bytes to send."""

    id: UUID
    lease_id: UUID
    to_address: str
    content: bytes
    counted_tries: int
    uncertain_tries: int

    @property
    def held(self) -> ColumnElement[bool]:
        """The condition under which the lease is still ours."""
        return (Email.id == self.id) & (Email.lease_id == self.lease_id)


@dataclass(frozen=True, slots=True)
class GateState:
    """The gate at a moment of the database's clock. `known`: it is known which mail was sent; see `Gate`."""

    row: Gate
    now: datetime
    incarnation: str

    @property
    def known(self) -> bool:
        """Whether this is the database in which it was last known which mail was sent."""
        return self.row.incarnation in {None, self.incarnation}

    @property
    def settled(self) -> bool:
        """Whether there is nothing to find out about it."""
        return self.row.incarnation == self.incarnation

    @property
    def open(self) -> bool:
        """Whether mail may be sent."""
        until = self.row.breaker_until
        return self.known and self.row.paused_at is None and (until is None or until <= self.now)


async def read_gate(session: AsyncSession) -> GateState:
    """Read whether mail may be sent."""
    found = select(Gate, func.clock_timestamp(), _HERE).execution_options(populate_existing=True)
    return GateState(*(await session.execute(found)).one())


async def has_due_email(session: AsyncSession) -> bool:
    """Tell whether a drain would find something: due mail, or a lease that ran out, while the gate is open."""
    gate = await read_gate(session)
    if not gate.open:
        return False
    now = gate.now
    waiting = (Email.state == EmailState.SCHEDULED) & (Email.next_attempt_at <= now)
    lost = (Email.state == EmailState.SENDING) & (Email.lease_until < now)
    return await session.scalar(select(Email.id).where(waiting | lost).limit(1)) is not None


async def claim_emails(
    session: AsyncSession, settings: MailSettings, *, overdue: float = 0
) -> list[ClaimedEmail] | None:
    """Take due mails under one lease, composing those that are taken for the first time; None when none is due.

    What is no longer needed is cancelled, and what may not be sent is suppressed, here and now: there may be more
    behind an empty list.
    """
    gate = await read_gate(session)
    if not gate.open:
        return None
    now = gate.now
    found = await session.scalars(
        select(Email)
        .options(undefer(Email.content))
        .where(Email.state == EmailState.SCHEDULED, Email.next_attempt_at <= now - timedelta(seconds=overdue))
        .order_by(Email.next_attempt_at, Email.id)
        # After the breaker opened, one mail finds out whether the set-up works again.
        .limit(1 if gate.row.breaker_trips else BATCH)
        .with_for_update(skip_locked=True)
    )
    due = found.all()
    if not due:
        return None
    lease_id = uuid4()
    claimed = [await _claim(session, email, lease_id, now, settings) for email in due]
    return [email for email in claimed if email is not None]


async def release_expired(session: AsyncSession, settings: MailSettings) -> None:
    """Take back mails whose holder is gone: at no cost before its DATA, as an uncertain try from there on."""
    expired = (
        await session.scalars(
            select(Email)
            .where(Email.state == EmailState.SENDING, Email.lease_until < func.clock_timestamp())
            .order_by(Email.id)
            .with_for_update(skip_locked=True)
        )
    ).all()
    for email in expired:
        lost = Outcome.UNCERTAIN if email.data_at is not None else Outcome.ABANDONED
        attempt = Try(outcome=lost, phase=Phase.LEASE, code=None, reply="the process that was sending this is gone")
        await _add_try(session, email.id, attempt, started_at=email.data_at)
        await _follow(session, Email.id == email.id, attempt, email.counted_tries, email.uncertain_tries, settings)
        failpoint("lease-expired")


async def record_try(
    session: AsyncSession, email: ClaimedEmail, attempt: Try, started_at: datetime, settings: MailSettings
) -> None:
    """Record a try and what follows from it. The answer of a holder whose lease ran out still counts if it is yes."""
    await _add_try(session, email.id, attempt, started_at)
    moved = await _follow(session, email.held, attempt, email.counted_tries, email.uncertain_tries, settings)
    failpoint("try-written")
    if not moved and attempt.outcome is Outcome.ACCEPTED:
        # Another holder that has not come to its DATA finds its lease gone there.
        again = (Email.id == email.id) & Email.data_at.is_(None)
        waiting = (EmailState.SCHEDULED, EmailState.SENDING)
        await move_emails(session, again, EmailState.SENT, {}, leaving=waiting)


async def _claim(
    session: AsyncSession, email: Email, lease_id: UUID, now: datetime, settings: MailSettings
) -> ClaimedEmail | None:
    this = Email.id == email.id
    found = await session.execute(
        select(EmailMessage, is_unread().label("unread"))
        .join(Email, Email.id == EmailMessage.email_id)
        .where(this, EmailMessage.left_out.is_(False))
        .order_by(EmailMessage.number)
    )
    rows = found.all()
    unread = [row.EmailMessage for row in rows if row.unread]
    if not unread:
        # A deletion takes the subject with it; it may have come while the mail was on its way.
        await cancel_emails(session, this, Reason.READ if email.subject is not None else Reason.DELETED)
        return None
    # Composed anew it says what it said: under its Message-ID its recipient may have it already.
    messages = unread if email.claimed_at is None else [row.EmailMessage for row in rows]
    audience = Audience(email.audience)
    customer = await session.get(Person, email.recipient_id) if audience is Audience.CUSTOMER else None
    reason = suppression(audience, customer, settings)
    letter = None
    # It has no bytes yet, or they are addressed to where its recipient no longer is.
    stale = email.content is None or recipient_address(audience, customer, settings) != email.to_address
    if reason is None and stale:
        try:
            letter = await compose_email(session, email, messages, now, settings)
        except AddressError:
            reason = Reason.ADDRESS_NOT_SUPPORTED
        except (SQLAlchemyError, OSError):
            raise
        except Exception as error:  # one mail that cannot be composed must not hold up all others
            log.warning("email not composed, trying again later", email_id=str(email.id), error=type(error).__name__)
            log.debug("email not composed", email_id=str(email.id), exc_info=True)
            await session.execute(update(Email).where(this).values(next_attempt_at=now + COMPOSE_AGAIN))
            return None
    if reason is not None:
        await move_emails(session, this, EmailState.SUPPRESSED, {"reason": reason}, leaving=(EmailState.SCHEDULED,))
        return None
    values = {"lease_id": lease_id, "lease_until": now + LEASE}
    to_address, content = email.to_address, email.content
    if letter is not None:
        await session.execute(
            update(EmailMessage)
            .where(
                EmailMessage.email_id == email.id, EmailMessage.message_id.not_in([one.message_id for one in messages])
            )
            .values(left_out=True)
        )
        to_address, content = letter.to_address, letter.content
        values |= {
            "claimed_at": now,
            "message_id": letter.message_id,
            "to_address": to_address,
            "content": content,
        }
    await move_emails(session, this, EmailState.SENDING, values, leaving=(EmailState.SCHEDULED,))
    failpoint("claim-written")
    assert to_address is not None and content is not None  # noqa: S101, PT018 - a claimed mail has both
    return ClaimedEmail(email.id, lease_id, to_address, content, email.counted_tries, email.uncertain_tries)


async def begin_data(session: AsyncSession, email: ClaimedEmail) -> bool:
    """Note that the mail's text is about to go out; False when the lease is no longer ours, or mail may not be sent."""
    known = Gate.incarnation.is_(None) | (Gate.incarnation == _HERE)
    held = await session.execute(
        update(Email)
        .where(email.held, Email.state == EmailState.SENDING, exists().where(Gate.paused_at.is_(None), known))
        .values(data_at=func.clock_timestamp())
        .returning(Email.id)
        .execution_options(synchronize_session=False)
    )
    return held.first() is not None


async def renew_lease(session: AsyncSession, lease_id: UUID) -> None:
    """Hold on to all mails of a lease that are still being sent."""
    await session.execute(
        update(Email)
        .where(Email.lease_id == lease_id, Email.state == EmailState.SENDING)
        .values(lease_until=func.clock_timestamp() + LEASE)
        .execution_options(synchronize_session=False)
    )


async def hand_back(session: AsyncSession, email: ClaimedEmail) -> None:
    """Give back a mail that was claimed and not begun."""
    await move_emails(session, email.held, EmailState.SCHEDULED, {}, leaving=(EmailState.SENDING,))


async def _add_try(session: AsyncSession, email_id: UUID, attempt: Try, started_at: datetime | None) -> None:
    session.add(
        EmailTry(
            email_id=email_id,
            started_at=started_at,
            outcome=attempt.outcome,
            phase=attempt.phase,
            code=attempt.code,
            reply=attempt.reply,
            process=PROCESS,
        )
    )
    await session.flush()


async def _follow(
    session: AsyncSession,
    which: ColumnElement[bool],
    attempt: Try,
    counted: int,
    uncertain: int,
    settings: MailSettings,
) -> bool:
    """Move a mail that is being sent to what follows from a try; False when it is not ours to move."""
    following = after_try(
        attempt.outcome,
        counted=counted,
        uncertain=uncertain,
        delays=retry_delays(settings.email_retry_seconds),
        uncertain_delay=settings.email_uncertain_seconds,
        rejection=attempt.rejection,
    )
    values: dict[str, Any] = {
        "reason": following.reason,
        "counted_tries": counted + following.counts,
        "uncertain_tries": uncertain + (attempt.outcome is Outcome.UNCERTAIN),
    }
    if following.delay is not None:
        pause = with_jitter(following.delay, random.random)
        values["next_attempt_at"] = func.clock_timestamp() + timedelta(seconds=pause)
    state = following.state or EmailState.SCHEDULED
    moved = await move_emails(session, which, state, values, leaving=(EmailState.SENDING,))
    if following.opens_breaker:
        await _trip_breaker(session, attempt)
    elif attempt.outcome is not Outcome.ABANDONED and attempt.phase not in {Phase.LEASE, Phase.ADDRESS}:
        await session.execute(
            update(Gate)
            .where(Gate.breaker_trips > 0)
            .values(breaker_trips=0, breaker_until=None, breaker_reason=None)
            .execution_options(synchronize_session=False)
        )
    return bool(moved)


async def _trip_breaker(session: AsyncSession, attempt: Try) -> None:
    gate = await session.get_one(Gate, True, with_for_update=True, populate_existing=True)
    now = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    if gate.breaker_until is None or gate.breaker_until <= now:
        gate.breaker_trips += 1
        gate.breaker_until = now + timedelta(seconds=breaker_pause(gate.breaker_trips))
        gate.breaker_reason = attempt.reply
        failpoint("breaker-tripped")
        # Without the reply, which may quote an address; `chats status` shows it.
        log.error(
            "mail set-up is at fault, sending pauses",
            phase=attempt.phase,
            code=attempt.code,
            until=str(gate.breaker_until),
        )
