"""Send due emails: claim them with a lease, send them outside any transaction, record each result at once."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import structlog

from services.notifications.delivery.attempt_recorder import AttemptRecorder
from services.notifications.delivery.attempts import EndedAttempt, release_expired
from services.notifications.delivery.claiming import BATCH, claim_emails
from services.notifications.delivery.leases import ClaimedEmail, pending_work, release, renew_lease
from services.notifications.mail.attempts import OPENING, Attempt
from services.notifications.mail.pool import ConnectionPool, ServerCapacity
from services.notifications.mail.smtp import SmtpConnection
from services.notifications.mail.smtp_url import parse_smtp_url
from services.notifications.rules import Outcome
from services.notifications.settings import EmailSettings
from shared.database.errors import DATABASE_ERRORS
from shared.database.transactions import SessionFactory, connection_provider, transaction
from shared.observability.tracing import SpanName, record_span, span_start
from shared.process.failpoints import failpoint
from shared.process.stopping import pause

RENEWAL = 20.0  # seconds between renewals of a lease
BATCH_LINGER = 0.5  # seconds between batches that are not full: larger batches cost less per email
EMAILS_PER_CONNECTION = 4  # at least: opening a connection takes as long as sending a few emails
GRACE = 8.0  # seconds that emails being sent have to finish after a stop, before their dialogues are aborted
CROWDED_PAUSE = 10.0  # seconds until the next attempt when the server serves other processes but not this one
RECORD_GRACE = 5.0  # seconds for recording and releasing after that

# After these outcomes no other email of the batch would be accepted. `ABANDONED` may mean that sending is paused; the
# other emails are released, and claimed again if they may be sent.
HALTING_OUTCOMES = {Outcome.MISCONFIGURED, Outcome.BUSY, Outcome.REFUSED, Outcome.ABANDONED}

log = structlog.get_logger()


async def drain(
    sessions: SessionFactory,
    settings: EmailSettings,
    stop: asyncio.Event,
    *,
    overdue: float = 0,
    limit: float = math.inf,
    capacity: ServerCapacity | None = None,
) -> int:
    """Send emails until none is due, `limit` seconds have passed, or `stop` is set; return the number of attempts.

    With `overdue`, only sends emails that are overdue by that many seconds. On `stop` no further email is started,
    those being sent are finished or aborted, and all are recorded and released within 20 seconds if the database
    answers. `capacity` is what is known of the mail server from before.
    """
    attempts, loop, acquire = 0, asyncio.get_running_loop(), connection_provider(sessions.kw["bind"])
    end = loop.time() + limit
    async with _connections(settings, capacity or ServerCapacity()) as pool:
        while not stop.is_set() and loop.time() < end:
            async with acquire() as connection:
                pending = await pending_work(connection, overdue=overdue)
            if not any(pending):
                break
            if pending.expired:
                async with transaction(sessions) as session:
                    await release_expired(session, settings)
                failpoint("leases-released")
            async with transaction(sessions) as session:
                batch = await claim_emails(session, settings, overdue=overdue)
            failpoint("claim-committed")
            if batch is None:
                break
            if batch:
                result = await _send_batch(sessions, settings, pool, batch, stop, end)
                attempts += result.attempts
                if result.crowded:
                    await pause(stop, CROWDED_PAUSE)
                    break
            if 1 < len(batch) < BATCH:
                await pause(stop, BATCH_LINGER)
    return attempts


@asynccontextmanager
async def _connections(settings: EmailSettings, capacity: ServerCapacity) -> AsyncIterator[ConnectionPool]:
    """Provide connections that open with their first email; none without a mail server."""
    url, count = settings.smtp_url, settings.smtp_connections if settings.smtp_url else 0
    server = parse_smtp_url(url.get_secret_value()) if url else None
    connections = [SmtpConnection(server, ehlo=settings.ehlo) for _ in range(count)] if server else []
    pool = ConnectionPool(connections, capacity)
    try:
        yield pool
    finally:
        await pool.close()


@dataclass(slots=True)
class _Batch:
    """The emails of a batch that are still to be sent, and its progress."""

    waiting: list[ClaimedEmail]
    stop: asyncio.Event
    end: float
    attempts: int = 0
    halted: bool = False
    crowded: bool = False
    """Whether the server refuses connections from this process while it accepts emails from others."""

    @property
    def may_continue(self) -> bool:
        """Whether another email may be started."""
        in_time = not self.stop.is_set() and asyncio.get_running_loop().time() < self.end
        return bool(self.waiting) and not self.halted and in_time


async def _send_batch(
    sessions: SessionFactory,
    settings: EmailSettings,
    pool: ConnectionPool,
    emails: Sequence[ClaimedEmail],
    stop: asyncio.Event,
    end: float,
) -> _Batch:
    """Send a batch over a few connections; release emails that were not started when the setup fails or on a stop."""
    batch, recorder = _Batch(list(reversed(emails)), stop, end), AttemptRecorder(sessions, settings, BATCH)
    # No task group: when one task fails, the others must not be cancelled after their final dot.
    needed = math.ceil(len(emails) / EMAILS_PER_CONNECTION)
    senders = [
        asyncio.create_task(_send_emails(batch, recorder, pool, connection)) for connection in pool.select(needed)
    ]
    helpers = [
        asyncio.create_task(_renew(sessions, emails[0].lease_id)),
        asyncio.create_task(_enforce_stop(stop, pool, senders)),
    ]
    try:
        results = await asyncio.gather(*senders, return_exceptions=True)
    finally:
        for task in helpers:
            task.cancel()
        await asyncio.wait(helpers)
        await recorder.close()
        if batch.waiting:
            async with asyncio.timeout(RECORD_GRACE), transaction(sessions) as session:
                await release(session, batch.waiting)
                failpoint("release-written")
            failpoint("release-committed")
    for failure in results:
        if failure is not None:
            raise failure
    return batch


async def _send_emails(
    batch: _Batch, recorder: AttemptRecorder, pool: ConnectionPool, connection: SmtpConnection
) -> None:
    """Send emails of a batch over one connection until the batch ends."""
    try:
        while batch.may_continue:
            failure = await pool.open(connection)
            if not batch.may_continue or (failure is None and pool.failed):
                break
            if not await _send_next(batch, recorder, pool, connection, failure):
                break
    except BaseException:  # the other tasks start no further email; the error is raised when they have ended
        batch.halted = True
        raise


async def _send_next(
    batch: _Batch, recorder: AttemptRecorder, pool: ConnectionPool, connection: SmtpConnection, failure: Attempt | None
) -> bool:
    """Send the next email of a batch, or record why its connection could not be opened; return False to stop.

    A connection that the server refuses while it serves others costs no attempt: the pool continues with fewer.
    """
    started_at, start, email = datetime.now(UTC), span_start(), batch.waiting.pop()
    signer = recorder.settings.signer
    attempt = failure or await connection.send(
        sender=email.envelope_from,
        recipient=email.to_address,
        content=signer.sign(email.content) if signer else email.content,
        before_data=lambda: recorder.begun.submit(email),
    )
    failpoint("attempt-ended")
    _trace(email, attempt, start)
    crowded = attempt.outcome is Outcome.BUSY and attempt.phase in OPENING
    if pool.continue_without(connection, attempt) or (crowded and await recorder.others_deliver()):
        batch.waiting.append(email)
        if not pool.is_open:
            batch.crowded = batch.halted = True
        return False
    await recorder.record(EndedAttempt(email, attempt, started_at))
    batch.attempts += 1
    batch.halted = batch.halted or attempt.outcome in HALTING_OUTCOMES
    return True


def _trace(email: ClaimedEmail, attempt: Attempt, start: int) -> None:
    result = {"outcome": attempt.outcome.value, "phase": attempt.phase.value, "code": attempt.code or 0}
    failed = attempt.outcome is not Outcome.ACCEPTED
    record_span(SpanName.SEND, email.message_ids, start, failed=failed, email_id=str(email.id), **result)


async def _enforce_stop(stop: asyncio.Event, pool: ConnectionPool, senders: Sequence[asyncio.Task[None]]) -> None:
    """After a stop, limit the time to wait for the mail server and then for the database.

    The leases of attempts that could not be recorded expire.
    """
    await stop.wait()
    await asyncio.sleep(GRACE)
    pool.abort()
    await asyncio.sleep(RECORD_GRACE)
    for task in senders:
        task.cancel()


async def _renew(sessions: SessionFactory, lease_id: UUID) -> None:
    while True:
        await asyncio.sleep(RENEWAL)
        with suppress(*DATABASE_ERRORS):
            async with transaction(sessions) as session:
                await renew_lease(session, lease_id)
