"""Writing down how attempts to send go, for all connections of a batch together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from services.notifications.delivery.attempts import (
    EndedAttempt,
    begin_data,
    others_deliver,
    record_accepted,
    record_failed,
)
from services.notifications.delivery.leases import ClaimedEmail
from services.notifications.rules import Outcome
from services.notifications.settings import MailSettings
from shared.batcher import Batcher
from shared.database import SessionFactory, connection_provider, transaction
from shared.failpoints import failpoint

RECORDING = 120.0  # seconds to keep trying to record an answer, while the database is away

log = structlog.get_logger()


class AttemptRecorder:
    """Where what the connections of a batch have to write down is written together, as it comes."""

    def __init__(self, sessions: SessionFactory, settings: MailSettings, size: int) -> None:
        self.settings = settings
        self._sessions = sessions
        self._acquire = connection_provider(sessions.kw["bind"])
        self.begun = Batcher(self._begin, size)
        self.accepted = Batcher(partial(self._record, self._write_accepted), size)
        self.failed = Batcher(partial(self._record, self._write_failed), size)

    async def close(self) -> None:
        """Break off what is still being written down: the tasks that asked for it have ended."""
        for each in (self.begun, self.accepted, self.failed):
            await each.close()

    async def record(self, ended: EndedAttempt) -> None:
        """Record a try, together with what the other connections have to record."""
        attempt = ended.attempt
        await (self.accepted if attempt.outcome is Outcome.ACCEPTED else self.failed).submit(ended)
        failpoint("try-recorded")
        told = {"outcome": attempt.outcome, "phase": attempt.phase, "code": attempt.code}
        log.info("email tried", email_id=str(ended.email.id), **told)

    async def others_send(self) -> bool:
        """Tell whether the server accepts mail of other processes; no, when that cannot be known."""
        try:
            async with self._acquire() as connection:
                return await others_deliver(connection)
        except Exception as error:  # noqa: BLE001 - the driver raises more than its own kind
            log.warning("not known whether others send", error=type(error).__name__)
            return False

    async def _begin(self, emails: Sequence[ClaimedEmail]) -> Sequence[bool]:
        try:
            async with self._acquire() as connection:
                begun = await begin_data(connection, emails)
        except Exception as error:  # noqa: BLE001 - nothing has gone out, so nothing is lost by giving it up
            log.warning("emails not begun", emails=_ids(emails), error=type(error).__name__)
            return [False] * len(emails)
        failpoint("data-committed")
        return [email.id in begun for email in emails]

    async def _write_accepted(self, ended: Sequence[EndedAttempt]) -> None:
        async with self._acquire() as connection:
            await record_accepted(connection, ended)

    async def _write_failed(self, ended: Sequence[EndedAttempt]) -> None:
        async with transaction(self._sessions) as session:
            await record_failed(session, ended, self.settings)

    async def _record(
        self, write: Callable[[Sequence[EndedAttempt]], Awaitable[None]], ended: Sequence[EndedAttempt]
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
