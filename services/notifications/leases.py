"""Who may send a mail, and what became of it: claims with a lease, the breaker, the record of each try.

A process may die at any line. Before `data_at` is committed nothing can have reached the mail server, and the mail
goes back at no cost; after it the server may have the mail, and the try is uncertain.
"""

import os
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from services.notifications.caps import measure_room
from services.notifications.emails import cancel_emails, move_emails
from services.notifications.gate import close_breaker, may_begin, read_gate, trip_breaker
from services.notifications.letters import compose_email
from services.notifications.mail.addresses import AddressError
from services.notifications.mail.transport import Phase, Try
from services.notifications.models import Email, EmailMessage, EmailTry, Person
from services.notifications.portions import read_portion, split_off
from services.notifications.recipients import Recipient, find_recipient
from services.notifications.rules import (
    MAY_HAVE_ARRIVED,
    Audience,
    EmailState,
    Outcome,
    Reason,
    after_try,
    retry_delays,
    with_jitter,
)
from services.notifications.settings import MailSettings
from shared.failpoints import failpoint

LEASE = timedelta(seconds=60)  # that a claim holds without being renewed
BATCH = 20  # mails claimed at once

PROCESS = f"{socket.gethostname()}:{os.getpid()}"

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
class DueEmail:
    """A due mail, and whom it goes to at present."""

    row: Email
    to: Recipient


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

    What is no longer needed is cancelled, what may not be sent is suppressed, and what its address has no room for is
    held back until it has, here and now: there may be more behind an empty list.
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
    due = await _addressed(session, found.all(), settings)
    if not due:
        return None
    room = await measure_room(session, {one.to.mailbox for one in due if one.to.mailbox}, now, settings)
    lease_id = uuid4()
    claimed, held_back = [], []
    for one in due:
        opens_at = room.opens_at(one.to.mailbox)
        if opens_at is not None:
            held_back.append({"id": one.row.id, "next_attempt_at": opens_at, "reason": Reason.RATE_LIMITED})
        elif (email := await _claim(session, one, lease_id, now, settings)) is not None:
            room.take(one.to.mailbox)
            claimed.append(email)
    if held_back:
        await session.execute(update(Email), held_back)
        log.info("emails held back, their addresses have had as many as they may", emails=len(held_back))
    return claimed


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


async def _addressed(session: AsyncSession, due: Sequence[Email], settings: MailSettings) -> list[DueEmail]:
    ids = {email.recipient_id for email in due}
    customers = {person.id: person for person in await session.scalars(select(Person).where(Person.id.in_(ids)))}
    return [
        DueEmail(email, find_recipient(Audience(email.audience), customers.get(email.recipient_id), settings))
        for email in due
    ]


async def _claim(
    session: AsyncSession, due: DueEmail, lease_id: UUID, now: datetime, settings: MailSettings
) -> ClaimedEmail | None:
    email, reason, this = due.row, due.to.reason, Email.id == due.row.id
    messages, more = await read_portion(session, email)
    if not messages:
        # A deletion takes the subject with it; it may have come while the mail was on its way.
        await cancel_emails(session, this, Reason.READ if email.subject is not None else Reason.DELETED)
        return None
    letter = None
    # It has no bytes yet, or they are addressed to where its recipient no longer is.
    if reason is None and (email.content is None or due.to.address != email.to_address):
        try:
            letter = await compose_email(session, email, messages, now, settings)
        except AddressError:
            reason = Reason.ADDRESS_NOT_SUPPORTED
        except (SQLAlchemyError, OSError):
            raise
        except BaseException as error:  # one mail that cannot be composed must not hold up all others
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of a library in Rust
                raise
            await _postpone(session, email, error, settings)
            return None
    if reason is not None:
        await move_emails(session, this, EmailState.SUPPRESSED, {"reason": reason}, leaving=(EmailState.SCHEDULED,))
        return None
    values = {"lease_id": lease_id, "lease_until": now + LEASE, "mailbox": due.to.mailbox}
    to_address, content = email.to_address, email.content
    if letter is not None:
        if more:
            await split_off(session, email, messages[-1].number, now)
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


async def _postpone(session: AsyncSession, email: Email, error: BaseException, settings: MailSettings) -> None:
    """Count a mail that could not be composed as deferred: a newer version may be able to, and its end is shown."""
    log.warning("email not composed, trying again later", email_id=str(email.id), error=type(error).__name__)
    log.debug("email not composed", email_id=str(email.id), exc_info=error)
    attempt = Try(Outcome.DEFERRED, Phase.COMPOSE, None, f"not composed: {type(error).__name__}")
    await _add_try(session, email.id, attempt, started_at=None)
    delays = retry_delays(settings.email_retry_seconds)
    this, counted = Email.id == email.id, email.counted_tries
    following = after_try(attempt.outcome, counted=counted, uncertain=0, delays=delays, uncertain_delay=0)
    if following.delay is None:
        values = {"reason": following.reason}
        await move_emails(session, this, EmailState.FAILED, values, leaving=(EmailState.SCHEDULED,))
        return
    due = func.clock_timestamp() + timedelta(seconds=with_jitter(following.delay, random.random))
    await session.execute(update(Email).where(this).values(next_attempt_at=due, counted_tries=counted + 1, reason=None))


async def begin_data(session: AsyncSession, email: ClaimedEmail) -> bool:
    """Note that the mail's text is about to go out; False when the lease is no longer ours, or mail may not be sent."""
    held = await session.execute(
        update(Email)
        .where(email.held, Email.state == EmailState.SENDING, may_begin())
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
    # Under the lock of the mail, so that an address that is being erased does not get away.
    mailbox = select(Email.mailbox).where(Email.id == email_id).with_for_update(key_share=True).scalar_subquery()
    session.add(
        EmailTry(
            email_id=email_id,
            mailbox=mailbox if attempt.outcome in MAY_HAVE_ARRIVED else None,
            started_at=started_at,
            finished_at=func.clock_timestamp(),
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
        await trip_breaker(session, attempt)
    elif attempt.outcome is not Outcome.ABANDONED and attempt.phase not in {Phase.LEASE, Phase.ADDRESS}:
        await close_breaker(session)
    return bool(moved)
