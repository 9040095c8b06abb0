"""Sending mail: claimed with a lease, sent outside any transaction, recorded at once."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import structlog

from services.notifications.claims import BATCH, claim_emails
from services.notifications.leases import (
    ClaimedEmail,
    Ended,
    begin_data,
    hand_back,
    look_for_mail,
    record_accepted,
    record_failed,
    release_expired,
    renew_lease,
)
from services.notifications.mail.transport import SmtpConnection, Try, parse_smtp_url
from services.notifications.rules import Outcome
from services.notifications.settings import MailSettings
from shared.database import Sessions, create_lender, transaction
from shared.failpoints import failpoint
from shared.outages import DATABASE_ERRORS
from shared.processes import pause
from shared.together import Together

RENEWAL = 20.0  # seconds between renewals of a lease
GATHER = 0.1  # seconds after a batch of some mails until the next, which is the cheaper the more there is in it
MAILS_A_CONNECTION = 4  # of a batch, at least: to open one takes as long as some mails do
RECORDING = 120.0  # seconds to keep trying to record an answer, while the database is away
GRACE = 8.0  # seconds that mails under way have when work has to stop, before their dialogues are broken off
LAST_WORDS = 5.0  # seconds that recording and handing back have then

log = structlog.get_logger()


async def drain(
    sessions: Sessions, settings: MailSettings, stop: asyncio.Event, *, overdue: float = 0, limit: float = math.inf
) -> int:
    """Send mail until none is due, or `limit` seconds are over, or `stop` is set; return how many tries there were.

    `overdue` takes only what has been due for that many seconds and nobody has claimed. On `stop` no further mail is
    begun, those under way are finished or broken off, and all is recorded and handed back within 20 seconds, as far
    as the database answers.
    """
    tries, loop, lend = 0, asyncio.get_running_loop(), create_lender(sessions.kw["bind"])
    end = loop.time() + limit
    async with _connections(settings) as connections:
        while not stop.is_set() and loop.time() < end:
            async with lend() as connection:
                waiting = await look_for_mail(connection, overdue=overdue)
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
                tries += await _send_batch(sessions, settings, connections, batch, stop, end)
            if 1 < len(batch) < BATCH:
                await pause(stop, GATHER)
    return tries


@asynccontextmanager
async def _connections(settings: MailSettings) -> AsyncIterator[Sequence[SmtpConnection]]:
    """Give connections that open with their first mail and are kept to the end; none without a mail server."""
    url, count = settings.smtp_url, settings.smtp_connections
    connections = [SmtpConnection(parse_smtp_url(url.get_secret_value())) for _ in range(count)] if url else []
    try:
        yield connections
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))


async def _send_batch(
    sessions: Sessions,
    settings: MailSettings,
    connections: Sequence[SmtpConnection],
    batch: Sequence[ClaimedEmail],
    stop: asyncio.Event,
    end: float,
) -> int:
    """Send a batch over a few connections; hand back what was not begun when the set-up fails or work has to stop."""
    waiting, tries, halted = list(reversed(batch)), 0, False
    loop, desk = asyncio.get_running_loop(), _Desk(sessions, settings)

    async def work(connection: SmtpConnection) -> None:
        nonlocal tries, halted
        try:
            while waiting and not halted and not stop.is_set() and loop.time() < end:
                attempt = await _send(desk, connection, waiting.pop())
                tries += 1
                # Abandoned may mean paused; the others of the batch are claimed again, if they still may go.
                halted = halted or attempt.outcome in {Outcome.MISCONFIGURED, Outcome.ABANDONED}
        except BaseException:  # whatever it was, the others begin no further mail; it is raised when they have ended
            halted = True
            raise

    # No task group: the failure of one must not break off another behind its final dot.
    needed = math.ceil(len(batch) / MAILS_A_CONNECTION)
    under_way = [asyncio.create_task(work(connection)) for connection in connections[:needed]]
    beside = [
        asyncio.create_task(_renew(sessions, batch[0].lease_id)),
        asyncio.create_task(_end_in_time(stop, connections, under_way)),
    ]
    try:
        ended = await asyncio.gather(*under_way, return_exceptions=True)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)
        await desk.close()
        if waiting:
            async with asyncio.timeout(LAST_WORDS), transaction(sessions) as session:
                await hand_back(session, waiting)
                failpoint("handing-back-written")
            failpoint("handing-back-committed")
    for failure in ended:
        if failure is not None:
            raise failure
    return tries


async def _end_in_time(
    stop: asyncio.Event, connections: Sequence[SmtpConnection], under_way: Sequence[asyncio.Task[None]]
) -> None:
    """When work has to stop, let it neither wait for a mail server nor for the database for long.

    What a database that is away keeps from being recorded is left to the leases.
    """
    await stop.wait()
    await asyncio.sleep(GRACE)
    for connection in connections:
        connection.break_off()
    await asyncio.sleep(LAST_WORDS)
    for task in under_way:
        task.cancel()


async def _send(desk: "_Desk", connection: SmtpConnection, email: ClaimedEmail) -> Try:
    started_at = datetime.now(UTC)
    attempt = await connection.send(
        sender=desk.settings.email_from,
        recipient=email.to_address,
        content=email.content,
        before_data=lambda: desk.begun.ask(email),
    )
    failpoint("try-ended")
    recorded = desk.accepted if attempt.outcome is Outcome.ACCEPTED else desk.failed
    await recorded.ask(Ended(email, attempt, started_at))
    failpoint("try-recorded")
    log.info("email tried", email_id=str(email.id), outcome=attempt.outcome, phase=attempt.phase, code=attempt.code)
    return attempt


class _Desk:
    """Where what the connections of a batch have to write down is written together, as it comes."""

    def __init__(self, sessions: Sessions, settings: MailSettings) -> None:
        self.settings = settings
        self._sessions = sessions
        self._lend = create_lender(sessions.kw["bind"])
        self.begun = Together(self._begin, BATCH)
        self.accepted = Together(partial(self._record, self._write_accepted), BATCH)
        self.failed = Together(partial(self._record, self._write_failed), BATCH)

    async def close(self) -> None:
        """Break off what is still being written down: the tasks that asked for it have ended."""
        for each in (self.begun, self.accepted, self.failed):
            await each.close()

    async def _begin(self, emails: Sequence[ClaimedEmail]) -> Sequence[bool]:
        try:
            async with self._lend() as connection:
                begun = await begin_data(connection, emails)
        except Exception as error:  # noqa: BLE001 - nothing has gone out, so nothing is lost by giving it up
            log.warning("emails not begun", emails=_ids(emails), error=type(error).__name__)
            return [False] * len(emails)
        failpoint("data-committed")
        return [email.id in begun for email in emails]

    async def _write_accepted(self, ended: Sequence[Ended]) -> None:
        async with self._lend() as connection:
            await record_accepted(connection, ended)

    async def _write_failed(self, ended: Sequence[Ended]) -> None:
        async with transaction(self._sessions) as session:
            await record_failed(session, ended, self.settings)

    async def _record(
        self, write: Callable[[Sequence[Ended]], Awaitable[None]], ended: Sequence[Ended]
    ) -> Sequence[None]:
        """Record tries, also across an outage of the database: a lost answer would send the mail twice."""
        try:
            async with asyncio.timeout(RECORDING):
                while True:
                    try:
                        await write(ended)
                    except Exception as error:  # noqa: BLE001 - the driver raises more than its own kind
                        emails = _ids([one.email for one in ended])
                        log.warning("tries not recorded yet", emails=emails, error=type(error).__name__)
                        await asyncio.sleep(0.5)
                    else:
                        break
        except (TimeoutError, asyncio.CancelledError) as error:
            for one in ended:
                told = {"email_id": str(one.email.id), "outcome": one.attempt.outcome, "phase": one.attempt.phase}
                log.error("try not recorded", **told)  # noqa: TRY400 - where the time ran out says nothing
            if isinstance(error, asyncio.CancelledError):
                raise
        return [None] * len(ended)


def _ids(emails: Sequence[ClaimedEmail]) -> list[str]:
    return [str(email.id) for email in emails]


async def _renew(sessions: Sessions, lease_id: UUID) -> None:
    while True:
        await asyncio.sleep(RENEWAL)
        with suppress(*DATABASE_ERRORS):
            async with transaction(sessions) as session:
                await renew_lease(session, lease_id)
