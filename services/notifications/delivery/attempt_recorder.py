"""Batched recording of delivery attempts, shared by all connections that send a batch."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from services.notifications.delivery.attempts import (
    EndedAttempt,
    begin_data,
    others_deliver,
    process_name,
    record_accepted,
    record_failed,
)
from services.notifications.delivery.leases import ClaimedEmail
from services.notifications.rules import Outcome
from services.notifications.settings import EmailSettings
from shared.batcher import Batcher
from shared.database.transactions import SessionFactory, connection_provider, transaction
from shared.process.failpoints import failpoint

RECORD_TIMEOUT = 120.0  # seconds to keep trying to record an answer while the database is unavailable

log = structlog.get_logger()


class AttemptRecorder:
    """Records the attempts of a batch; records that arrive at the same time share a statement."""

    def __init__(self, sessions: SessionFactory, settings: EmailSettings, size: int) -> None:
        self.settings = settings
        self._sessions = sessions
        self._acquire = connection_provider(sessions.kw["bind"])
        self.begun = Batcher(self._begin, size)
        self.accepted = Batcher(partial(self._record, self._write_accepted), size)
        self.failed = Batcher(partial(self._record, self._write_failed), size)

    async def close(self) -> None:
        """Cancel pending writes. Call it when the sending tasks have ended."""
        for batcher in (self.begun, self.accepted, self.failed):
            await batcher.close()

    async def record(self, ended: EndedAttempt) -> None:
        """Record an attempt that has ended."""
        attempt = ended.attempt
        await (self.accepted if attempt.outcome is Outcome.ACCEPTED else self.failed).submit(ended)
        failpoint("attempt-recorded")
        result = {"outcome": attempt.outcome, "phase": attempt.phase, "code": attempt.code}
        log.info("email attempted", email_id=str(ended.email.id), **result)

    async def others_deliver(self) -> bool:
        """Return whether the server accepts emails from other processes; False if the database cannot be read."""
        try:
            async with self._acquire() as connection:
                return await others_deliver(connection, process_name())
        except Exception as error:  # noqa: BLE001 - the driver raises other errors than its own
            log.warning("cannot check whether other processes deliver", error=type(error).__name__)
            return False

    async def _begin(self, emails: Sequence[ClaimedEmail]) -> Sequence[bool]:
        try:
            async with self._acquire() as connection:
                begun = await begin_data(connection, emails)
        except Exception as error:  # noqa: BLE001 - nothing was sent yet, so the attempts can be abandoned
            log.warning("emails abandoned before DATA", emails=_ids(emails), error=type(error).__name__)
            return [False] * len(emails)
        failpoint("data-committed")
        return [email.id in begun for email in emails]

    async def _write_accepted(self, attempts: Sequence[EndedAttempt]) -> None:
        async with self._acquire() as connection:
            await record_accepted(connection, attempts)

    async def _write_failed(self, attempts: Sequence[EndedAttempt]) -> None:
        async with transaction(self._sessions) as session:
            await record_failed(session, attempts, self.settings)

    async def _record(
        self, write: Callable[[Sequence[EndedAttempt]], Awaitable[None]], attempts: Sequence[EndedAttempt]
    ) -> Sequence[None]:
        """Record attempts, retrying while the database is unavailable: a lost answer would send the email twice."""
        try:
            async with asyncio.timeout(RECORD_TIMEOUT):
                while True:
                    try:
                        await write(attempts)
                    except Exception as error:  # noqa: BLE001 - the driver raises other errors than its own
                        emails = _ids([ended.email for ended in attempts])
                        log.warning("attempts not recorded, retrying", emails=emails, error=type(error).__name__)
                        await asyncio.sleep(0.5)
                    else:
                        break
        except (TimeoutError, asyncio.CancelledError) as error:
            for ended in attempts:
                result = {"outcome": ended.attempt.outcome, "phase": ended.attempt.phase}
                log.error("attempt not recorded", email_id=str(ended.email.id), **result)  # noqa: TRY400 - a timeout
            if isinstance(error, asyncio.CancelledError):
                raise
        return [None] * len(attempts)


def _ids(emails: Sequence[ClaimedEmail]) -> list[str]:
    return [str(email.id) for email in emails]
