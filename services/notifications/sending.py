"""Sending mail: claimed with a lease, sent outside any transaction, recorded at once."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from services.notifications.leases import (
    ClaimedEmail,
    begin_data,
    claim_emails,
    hand_back,
    record_try,
    release_expired,
    renew_lease,
)
from services.notifications.mail.transport import SmtpConnection, Try, parse_smtp_url
from services.notifications.rules import Outcome
from services.notifications.settings import MailSettings
from shared.database import Sessions, transaction

RENEWAL = 20.0  # seconds between renewals of a lease
CONNECTIONS = 4  # to the mail server, for one drain
RECORDING = 30.0  # seconds to keep trying to record an answer, while the database is away

log = structlog.get_logger()


async def drain(sessions: Sessions, settings: MailSettings, stop: asyncio.Event, *, overdue: float = 0) -> int:
    """Send mail until none is due or `stop` is set; return how many tries there were.

    `overdue` takes only what has been due for that many seconds and nobody has claimed.
    """
    tries = 0
    while not stop.is_set():
        async with transaction(sessions) as session:
            await release_expired(session, settings)
        async with transaction(sessions) as session:
            batch = await claim_emails(session, settings, overdue=overdue)
        if not batch:
            break
        tries += await _send_batch(sessions, settings, batch, stop)
    return tries


async def _send_batch(
    sessions: Sessions, settings: MailSettings, batch: Sequence[ClaimedEmail], stop: asyncio.Event
) -> int:
    """Send a batch over a few connections; hand back what was not begun when the set-up fails or work has to stop."""
    assert settings.smtp_url is not None  # noqa: S101 - without a mail server every mail is suppressed
    server = parse_smtp_url(settings.smtp_url.get_secret_value())
    waiting, tries, halted = list(reversed(batch)), 0, False

    async def work() -> None:
        nonlocal tries, halted
        connection = SmtpConnection(server)
        try:
            while waiting and not halted and not stop.is_set():
                attempt = await _send(sessions, settings, connection, waiting.pop())
                tries += 1
                halted = halted or attempt.outcome is Outcome.MISCONFIGURED
        finally:
            await connection.close()

    renewal = asyncio.create_task(_renew(sessions, batch[0].lease_id))
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONNECTIONS, len(batch))):
                group.create_task(work())
    finally:
        renewal.cancel()
        if waiting:
            async with transaction(sessions) as session:
                for email in waiting:
                    await hand_back(session, email)
    return tries


async def _send(sessions: Sessions, settings: MailSettings, connection: SmtpConnection, email: ClaimedEmail) -> Try:
    started_at = datetime.now(UTC)

    async def before_data() -> bool:
        async with transaction(sessions) as session:
            return await begin_data(session, email)

    attempt = await connection.send(
        sender=settings.email_from, recipient=email.to_address, content=email.content, before_data=before_data
    )
    await _record(sessions, settings, email, attempt, started_at)
    log.info("email tried", email_id=str(email.id), outcome=attempt.outcome, phase=attempt.phase, code=attempt.code)
    return attempt


async def _record(
    sessions: Sessions, settings: MailSettings, email: ClaimedEmail, attempt: Try, started_at: datetime
) -> None:
    """Record a try, also across a restart of the database: a lost answer would send the mail twice."""
    async with asyncio.timeout(RECORDING):
        while True:
            try:
                async with transaction(sessions) as session:
                    await record_try(session, email, attempt, started_at, settings)
            except (SQLAlchemyError, OSError) as error:
                log.warning("try not recorded yet", email_id=str(email.id), error=type(error).__name__)
                await asyncio.sleep(0.5)
            else:
                return


async def _renew(sessions: Sessions, lease_id: UUID) -> None:
    while True:
        await asyncio.sleep(RENEWAL)
        with suppress(SQLAlchemyError, OSError):
            async with transaction(sessions) as session:
                await renew_lease(session, lease_id)
