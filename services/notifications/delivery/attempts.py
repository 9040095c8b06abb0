"""Record delivery attempts and what follows from them."""

import os
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.circuit_breaker import CLOSED_BREAKER, MAY_BEGIN, note_failure, setup_works
from services.notifications.delivery.leases import ClaimedEmail
from services.notifications.delivery.transitions import move_emails
from services.notifications.event_log.append import append_events, emails_updated_sql
from services.notifications.mail.attempts import Attempt, Phase
from services.notifications.mail.smtp_url import host_of
from services.notifications.models import DeliveryAttempt, Email
from services.notifications.rules import (
    MAY_HAVE_ARRIVED,
    EmailState,
    Outcome,
    next_step,
    retry_delays,
    with_evidence,
    with_jitter,
)
from services.notifications.settings import EmailSettings
from shared.database.engine import Driver
from shared.database.transactions import driver_connection
from shared.notifications_feed import LoggedType
from shared.process.failpoints import failpoint

RECENT = 10  # seconds: a server that accepted another process's email within this time is available

log = structlog.get_logger()


def process_name() -> str:
    """Return the name of this process; a worker's children have their own."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that has ended, and when it began by this process's clock."""

    email: ClaimedEmail
    attempt: Attempt
    started_at: datetime


async def release_expired(session: AsyncSession, settings: EmailSettings) -> None:
    """Release emails whose lease has expired: as abandoned before DATA, as an uncertain attempt from there on."""
    expired = (
        await session.scalars(
            select(Email)
            .where(Email.state == EmailState.SENDING, Email.lease_until < func.clock_timestamp())
            .order_by(Email.id)
            .with_for_update(skip_locked=True)
        )
    ).all()
    for email in expired:
        outcome = Outcome.UNCERTAIN if email.data_at is not None else Outcome.ABANDONED
        attempt = Attempt(outcome, Phase.LEASE, None, "the sending process stopped before it recorded the result")
        await _add_attempt(session, email.id, attempt, started_at=email.data_at)
        counts = (email.counted_tries, email.uncertain_tries, email.refused_at)
        claimed = ClaimedEmail(email.id, email.lease_id or uuid4(), "", "", b"", *counts)
        await _apply_next_step(session, claimed, attempt, settings)
        failpoint("lease-expired")


async def record_accepted(connection: Driver, attempts: Sequence[EndedAttempt]) -> None:
    """Record accepted attempts of emails under one lease, and mark these emails as sent.

    An expired lease doesn't matter, unless another process has claimed the email and reached DATA. A process that has
    not reached it finds its lease gone there. It is one statement on the driver, because every email needs it.
    """
    rows = [
        (ended.email.id, ended.started_at, ended.attempt.phase, ended.attempt.code, ended.attempt.reply)
        for ended in attempts
    ]
    await connection.execute(_ACCEPT, *zip(*rows, strict=True), process_name(), attempts[0].email.lease_id)


async def record_failed(session: AsyncSession, attempts: Sequence[EndedAttempt], settings: EmailSettings) -> None:
    """Record attempts that were not accepted, and move their emails to the next state."""
    for ended in attempts:
        email, attempt = ended.email, ended.attempt
        refused_at = email.refused_at
        works = refused_at is not None and await setup_works(session, refused_at)
        outcome = with_evidence(attempt.outcome, attempt.own, suspected=refused_at is not None, setup_works=works)
        attempt = replace(attempt, outcome=outcome)
        await _add_attempt(session, email.id, attempt, ended.started_at)
        await _apply_next_step(session, email, attempt, settings)
    failpoint("attempt-written")


async def defer_unrenderable(
    session: AsyncSession, email: Email, error: BaseException, settings: EmailSettings
) -> None:
    """Record a deferred attempt for an email that cannot be rendered: a newer version may be able to."""
    log.warning("email not rendered, retrying later", email_id=str(email.id), error=type(error).__name__)
    log.debug("email not rendered", email_id=str(email.id), exc_info=error)
    attempt = Attempt(Outcome.DEFERRED, Phase.COMPOSE, None, f"not rendered: {type(error).__name__}")
    await _add_attempt(session, email.id, attempt, started_at=None)
    delays = retry_delays(settings.email_retry_seconds)
    this, counted = Email.id == email.id, email.counted_tries
    decision = next_step(attempt.outcome, counted=counted, uncertain=0, delays=delays, uncertain_delay=0)
    if decision.delay is None:
        values = {"reason": decision.reason}
        await move_emails(session, this, EmailState.FAILED, values, leaving=(EmailState.SCHEDULED,))
        return
    due = func.clock_timestamp() + timedelta(seconds=with_jitter(decision.delay, random.random))
    await session.execute(update(Email).where(this).values(next_attempt_at=due, counted_tries=counted + 1, reason=None))


async def begin_data(connection: Driver, emails: Sequence[ClaimedEmail]) -> set[UUID]:
    """Set `data_at` of emails under one lease, whose content is about to be sent; return the ids of those to send.

    Emails whose lease was lost are left out, and all of them while sending is not allowed. It is one statement on the
    driver, because every email needs it.
    """
    rows = await connection.fetch(_BEGIN, [email.id for email in emails], emails[0].lease_id)
    return {row["id"] for row in rows}


async def others_deliver(connection: Driver, process: str | None) -> bool:
    """Return whether the server has accepted an email in the last `RECENT` seconds, from any process but `process`."""
    return bool(await connection.fetchval(_OTHERS_DELIVER, process))


async def _add_attempt(session: AsyncSession, email_id: UUID, attempt: Attempt, started_at: datetime | None) -> None:
    # Lock the email, so that a concurrent erasure of its address covers the attempt too.
    mailbox = select(Email.mailbox).where(Email.id == email_id).with_for_update(key_share=True).scalar_subquery()
    row = DeliveryAttempt(
        email_id=email_id,
        mailbox=mailbox if attempt.outcome in MAY_HAVE_ARRIVED else None,
        started_at=started_at,
        finished_at=func.clock_timestamp(),
        outcome=attempt.outcome,
        phase=attempt.phase,
        code=attempt.code,
        reply=attempt.reply,
        process=process_name(),
    )
    session.add(row)
    await session.flush()


async def _apply_next_step(
    session: AsyncSession, email: ClaimedEmail, attempt: Attempt, settings: EmailSettings
) -> None:
    """Move an email to the state that follows from an attempt, unless its lease was lost."""
    counted, uncertain = email.counted_tries, email.uncertain_tries
    # A server that ends a connection after an email, while it accepts others, is no reason to pause all sending.
    ended = attempt.outcome is Outcome.BUSY and attempt.phase is Phase.END_OF_DATA
    decision = next_step(
        attempt.outcome,
        counted=counted,
        uncertain=uncertain,
        delays=retry_delays(settings.email_retry_seconds),
        uncertain_delay=settings.email_uncertain_seconds,
        rejection=attempt.rejection,
        serves_others=ended and await others_deliver(await driver_connection(session), process=None),
    )
    values: dict[str, Any] = {
        "reason": decision.reason,
        "counted_tries": counted + decision.counts,
        "uncertain_tries": uncertain + (attempt.outcome is Outcome.UNCERTAIN),
    }
    if decision.delay is not None:
        pause = with_jitter(decision.delay, random.random)
        values["next_attempt_at"] = func.clock_timestamp() + timedelta(seconds=pause)
    if decision.opens_breaker and attempt.own is not None:
        values["refused_at"] = func.clock_timestamp()
    state = decision.state or EmailState.SCHEDULED
    moved = await move_emails(session, email.held, state, values, leaving=(EmailState.SENDING,))
    if state is EmailState.SCHEDULED and decision.counts and counted == 0:  # the first failure, not each one
        await append_events(session, LoggedType.EMAIL_UPDATED, moved)
    host = host_of(settings.smtp_url.get_secret_value() if settings.smtp_url else None)
    await note_failure(session, attempt, email.lease_id, host, opens=decision.opens_breaker)


# UUIDv7 ids are in the order of time. Subqueries make the bounds once, so that PostgreSQL can use the index, and two of
# them, so that it expects few rows.
_OTHERS_DELIVER = f"""
select exists (
    select from email_tries
    where id between (select uuidv7(interval '-{RECENT} seconds')) and (select uuidv7(interval '1 hour'))
        and outcome = 'accepted' and process is distinct from $1
)
"""  # noqa: S608 - built from constants

# Only emails in `sending` have a lease. With a condition on the state, PostgreSQL might scan all of them.
_BEGIN = f"""
update emails set data_at = clock_timestamp() where id = any($1) and lease_id = $2 and {MAY_BEGIN} returning id
"""  # noqa: S608 - built from constants

# Emails are locked in the order of their ids before they are read: a concurrent erasure of an address covers the
# attempts too.
_CLOSED = ", ".join(f"{name} = {'null' if value is None else value}" for name, value in CLOSED_BREAKER.items())
_ACCEPT = f"""
with ended as (
    select * from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::int[], $5::text[])
        as ended(id, started_at, phase, code, reply)
), locked as (
    select id, mailbox, lease_id is not distinct from $7 as held,
        state in ('scheduled', 'sending') and data_at is null as not_begun
    from emails where id = any($1) order by id for no key update
), tried as (
    insert into email_tries (email_id, mailbox, started_at, finished_at, outcome, phase, code, reply, process)
    select id, mailbox, started_at, clock_timestamp(), 'accepted', phase, code, reply, $6
    from ended join locked using (id)
), closed as (
    update gate set proven_at = clock_timestamp(), {_CLOSED}
    where breaker_trips > 0
), sent as (
    update emails set
        state = 'sent', reason = null, finished_at = clock_timestamp(), counted_tries = counted_tries + held::int,
        lease_id = null, lease_until = null, data_at = null
    from locked where emails.id = locked.id and (held or not_begun)
    returning emails.id
)
{emails_updated_sql("sent")}
"""  # noqa: S608 - built from constants
