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

from services.notifications.delivery.circuit_breaker import CLOSED_BREAKER, MAY_BEGIN, note_failure, set_up_works
from services.notifications.delivery.leases import ClaimedEmail
from services.notifications.delivery.transitions import move_emails
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
from services.notifications.settings import MailSettings
from shared.database import Driver
from shared.failpoints import failpoint

RECENT = 10  # seconds in which a server that accepts mail of others is not away


log = structlog.get_logger()


def process_name() -> str:
    """Return the name of this process; a worker's children have their own."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """A try that ended, and when it began by this process's clock."""

    email: ClaimedEmail
    attempt: Attempt
    started_at: datetime


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
        attempt = Attempt(outcome=lost, phase=Phase.LEASE, code=None, reply="the process that was sending this is gone")
        await _add_attempt(session, email.id, attempt, started_at=email.data_at)
        held = ClaimedEmail(
            email.id, email.lease_id or uuid4(), "", b"", email.counted_tries, email.uncertain_tries, email.refused_at
        )
        await _follow(session, held, attempt, settings)
        failpoint("lease-expired")


async def record_accepted(connection: Driver, ended: Sequence[EndedAttempt]) -> None:
    """Record tries of mails under one lease that the server said yes to, and that these are sent.

    It counts also if the lease ran out, unless another holder has come to its DATA meanwhile; who has not finds its
    lease gone there. One statement straight on the driver, as each mail needs it.
    """
    rows = [(one.email.id, one.started_at, one.attempt.phase, one.attempt.code, one.attempt.reply) for one in ended]
    await connection.execute(_ACCEPT, *zip(*rows, strict=True), process_name(), ended[0].email.lease_id)


async def record_failed(session: AsyncSession, ended: Sequence[EndedAttempt], settings: MailSettings) -> None:
    """Record tries that ended in any other way, and what follows from them."""
    for one in ended:
        email, attempt = one.email, one.attempt
        suspected = email.refused_at
        works = suspected is not None and await set_up_works(session, suspected)
        outcome = with_evidence(attempt.outcome, attempt.own, suspected=suspected is not None, set_up_works=works)
        attempt = replace(attempt, outcome=outcome)
        await _add_attempt(session, email.id, attempt, one.started_at)
        await _follow(session, email, attempt, settings)
    failpoint("try-written")


async def defer_unrenderable(session: AsyncSession, email: Email, error: BaseException, settings: MailSettings) -> None:
    """Count a mail that could not be composed as deferred: a newer version may be able to, and its end is shown."""
    log.warning("email not composed, trying again later", email_id=str(email.id), error=type(error).__name__)
    log.debug("email not composed", email_id=str(email.id), exc_info=error)
    attempt = Attempt(Outcome.DEFERRED, Phase.COMPOSE, None, f"not composed: {type(error).__name__}")
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
    """Note that the text of mails under one lease is about to go out; return the ids of those that may.

    Not of one whose lease is no longer ours, and of none when mail may not be sent. One statement straight on the
    driver, as each mail needs it.
    """
    rows = await connection.fetch(_BEGIN, [email.id for email in emails], emails[0].lease_id)
    return {row["id"] for row in rows}


async def others_deliver(connection: Driver) -> bool:
    """Tell whether the server has accepted mail of another process within the last seconds."""
    return bool(await connection.fetchval(_OTHERS, process_name()))


async def _add_attempt(session: AsyncSession, email_id: UUID, attempt: Attempt, started_at: datetime | None) -> None:
    # Under the lock of the mail, so that an address that is being erased does not get away.
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


async def _follow(session: AsyncSession, email: ClaimedEmail, attempt: Attempt, settings: MailSettings) -> None:
    """Move a mail that is being sent to what follows from a try, unless it is not ours to move any more."""
    counted, uncertain = email.counted_tries, email.uncertain_tries
    decision = next_step(
        attempt.outcome,
        counted=counted,
        uncertain=uncertain,
        delays=retry_delays(settings.email_retry_seconds),
        uncertain_delay=settings.email_uncertain_seconds,
        rejection=attempt.rejection,
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
    await move_emails(session, email.held, state, values, leaving=(EmailState.SENDING,))
    host = host_of(settings.smtp_url.get_secret_value() if settings.smtp_url else None)
    await note_failure(session, attempt, email.lease_id, host, opens=decision.opens_breaker)


# The ids are of version 7 and so in the order of time.
_OTHERS = f"""
select exists (
    select from email_tries
    where id > uuidv7(interval '-{RECENT} seconds') and outcome = 'accepted' and process <> $1
)
"""  # noqa: S608 - built from constants

# By the lease alone, which a mail has while it is being sent only: asked for the state as well, PostgreSQL might go
# through all that are being sent.
_BEGIN = f"""
update emails set data_at = clock_timestamp() where id = any($1) and lease_id = $2 and {MAY_BEGIN} returning id
"""  # noqa: S608 - built from constants

# Mails are locked in one order, and before they are looked at: an address that is being erased does not get away.
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
)
update emails set
    state = 'sent', reason = null, finished_at = clock_timestamp(), counted_tries = counted_tries + held::int,
    content = null, lease_id = null, lease_until = null, data_at = null
from locked where emails.id = locked.id and (held or not_begun)
"""  # noqa: S608 - built from constants
