"""Sending mail: claimed with a lease, sent outside any transaction, recorded at once."""

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
from services.notifications.mail.pool import ConnectionPool, ServerRoom
from services.notifications.mail.smtp import SmtpConnection
from services.notifications.mail.smtp_url import parse_smtp_url
from services.notifications.rules import Outcome
from services.notifications.settings import MailSettings
from shared.database import SessionFactory, connection_provider, transaction
from shared.failpoints import failpoint
from shared.outages import DATABASE_ERRORS
from shared.processes import pause

RENEWAL = 20.0  # seconds between renewals of a lease
GATHER = 0.1  # seconds after a batch of some mails until the next, which is the cheaper the more there is in it
MAILS_A_CONNECTION = 4  # of a batch, at least: to open one takes as long as some mails do
GRACE = 8.0  # seconds that mails under way have when work has to stop, before their dialogues are broken off
CROWDED = 10.0  # seconds until a sender that the server has no room for, beside others, tries again
LAST_WORDS = 5.0  # seconds that recording and handing back have then

# After these no other mail of a batch would go through. Abandoned may mean paused; the others of the batch are claimed
# again, if they still may go.
STANDSTILL = {Outcome.MISCONFIGURED, Outcome.BUSY, Outcome.REFUSED, Outcome.ABANDONED}

log = structlog.get_logger()


async def drain(
    sessions: SessionFactory,
    settings: MailSettings,
    stop: asyncio.Event,
    *,
    overdue: float = 0,
    limit: float = math.inf,
    room: ServerRoom | None = None,
) -> int:
    """Send mail until none is due, or `limit` seconds are over, or `stop` is set; return how many tries there were.

    `overdue` takes only what has been due for that many seconds and nobody has claimed. On `stop` no further mail is
    begun, those under way are finished or broken off, and all is recorded and handed back within 20 seconds, as far
    as the database answers. `room` is what was learned before of the mail server.
    """
    tries, loop, acquire = 0, asyncio.get_running_loop(), connection_provider(sessions.kw["bind"])
    end = loop.time() + limit
    async with _connections(settings, room or ServerRoom()) as pool:
        while not stop.is_set() and loop.time() < end:
            async with acquire() as connection:
                waiting = await pending_work(connection, overdue=overdue)
            if not any(waiting):
                break
            if waiting.lost:
                async with transaction(sessions) as session:
                    await release_expired(session, settings)
                failpoint("leases-released")
            async with transaction(sessions) as session:
                batch = await claim_emails(session, settings, overdue=overdue)
            failpoint("claim-committed")
            if batch is None:
                break
            if batch:
                sent = await _send_batch(sessions, settings, pool, batch, stop, end)
                tries += sent.tries
                if sent.crowded:
                    await pause(stop, CROWDED)
                    break
            if 1 < len(batch) < BATCH:
                await pause(stop, GATHER)
    return tries


@asynccontextmanager
async def _connections(settings: MailSettings, room: ServerRoom) -> AsyncIterator[ConnectionPool]:
    """Give connections that open with their first mail and are kept to the end; none without a mail server."""
    url, count = settings.smtp_url, settings.smtp_connections if settings.smtp_url else 0
    server = parse_smtp_url(url.get_secret_value()) if url else None
    connections = [SmtpConnection(server, ehlo=settings.ehlo) for _ in range(count)] if server else []
    pool = ConnectionPool(connections, room)
    try:
        yield pool
    finally:
        await pool.close()


@dataclass(slots=True)
class _Batch:
    """What is left of a batch, and how it goes."""

    waiting: list[ClaimedEmail]
    stop: asyncio.Event
    end: float
    tries: int = 0
    halted: bool = False
    crowded: bool = False
    """Whether the server takes mail of others, and has no room for us."""

    @property
    def goes_on(self) -> bool:
        """Whether there is another mail to send, and it may be begun."""
        in_time = not self.stop.is_set() and asyncio.get_running_loop().time() < self.end
        return bool(self.waiting) and not self.halted and in_time


async def _send_batch(
    sessions: SessionFactory,
    settings: MailSettings,
    pool: ConnectionPool,
    emails: Sequence[ClaimedEmail],
    stop: asyncio.Event,
    end: float,
) -> _Batch:
    """Send a batch over a few connections; hand back what was not begun when the set-up fails or work has to stop."""
    batch, recorder = _Batch(list(reversed(emails)), stop, end), AttemptRecorder(sessions, settings, BATCH)
    # No task group: the failure of one must not break off another behind its final dot.
    needed = math.ceil(len(emails) / MAILS_A_CONNECTION)
    under_way = [asyncio.create_task(_work(batch, recorder, pool, one)) for one in pool.begin(needed)]
    beside = [
        asyncio.create_task(_renew(sessions, emails[0].lease_id)),
        asyncio.create_task(_end_in_time(stop, pool, under_way)),
    ]
    try:
        ended = await asyncio.gather(*under_way, return_exceptions=True)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)
        await recorder.close()
        if batch.waiting:
            async with asyncio.timeout(LAST_WORDS), transaction(sessions) as session:
                await release(session, batch.waiting)
                failpoint("handing-back-written")
            failpoint("handing-back-committed")
    for failure in ended:
        if failure is not None:
            raise failure
    return batch


async def _work(batch: _Batch, recorder: AttemptRecorder, pool: ConnectionPool, connection: SmtpConnection) -> None:
    """Send mails of a batch over one connection, for as long as that goes on."""
    try:
        while batch.goes_on:
            failure = await pool.open(connection)
            if not batch.goes_on or (failure is None and pool.failed):
                break
            if not await _send_next(batch, recorder, pool, connection, failure):
                break
    except BaseException:  # whatever it was, the others begin no further mail; it is raised when they have ended
        batch.halted = True
        raise


async def _send_next(
    batch: _Batch, recorder: AttemptRecorder, pool: ConnectionPool, connection: SmtpConnection, failure: Attempt | None
) -> bool:
    """Send the next mail of a batch, unless the connection could not be opened; False when it has to stop.

    A connection that the server refuses while it serves others costs no mail anything: there are fewer then.
    """
    started_at, email = datetime.now(UTC), batch.waiting.pop()
    attempt = failure or await connection.send(
        sender=recorder.settings.email_from,
        recipient=email.to_address,
        content=email.content,
        before_data=lambda: recorder.begun.submit(email),
    )
    failpoint("try-ended")
    crowded = attempt.outcome is Outcome.BUSY and attempt.phase in OPENING
    if pool.spare(connection, attempt) or (crowded and await recorder.others_send()):
        batch.waiting.append(email)
        if not pool.is_open:
            batch.crowded = batch.halted = True
        return False
    await recorder.record(EndedAttempt(email, attempt, started_at))
    batch.tries += 1
    batch.halted = batch.halted or attempt.outcome in STANDSTILL
    return True


async def _end_in_time(stop: asyncio.Event, pool: ConnectionPool, under_way: Sequence[asyncio.Task[None]]) -> None:
    """When work has to stop, let it neither wait for a mail server nor for the database for long.

    What a database that is away keeps from being recorded is left to the leases.
    """
    await stop.wait()
    await asyncio.sleep(GRACE)
    pool.break_off()
    await asyncio.sleep(LAST_WORDS)
    for task in under_way:
        task.cancel()


async def _renew(sessions: SessionFactory, lease_id: UUID) -> None:
    while True:
        await asyncio.sleep(RENEWAL)
        with suppress(*DATABASE_ERRORS):
            async with transaction(sessions) as session:
                await renew_lease(session, lease_id)
