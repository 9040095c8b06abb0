"""Take emails in from a mailbox that people may share: ours become rows and are moved away, all else stays untouched.

An email is a row before it is moved, so that a process that dies between leaves it to be found again, as the same row.
Nothing is marked as read. An email that cannot be taken is tried again later, and delays no other one.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from email.message import Message
from typing import Final

import structlog
from prometheus_client import Gauge

from services.notifications.inbound.parsing.mime import parse_headers
from services.notifications.inbound.reception import MAX_BYTES, UNKNOWN, Reception, Refused
from services.notifications.inbound.recipients import HEADERS, addresses_in, envelope_sender
from services.notifications.mail.imap import Headers, ImapConnection
from services.notifications.mail.imap_url import ImapServer
from services.notifications.mail.imap_wire import ImapError, ImapRefused, LoginRefused
from shared.database.errors import is_temporary
from shared.process.failpoints import failpoint
from shared.process.stopping import pause

IDLE_SECONDS: Final = 240.0  # until a wait is begun anew: routers forget quiet connections after five minutes
POLL_SECONDS: Final = 30.0  # between looks, of a server without IDLE
BETWEEN_LOOKS: Final = 0.5  # at least
BATCH: Final = 200  # emails whose headers are asked for at once
CONNECT_SECONDS: Final = (1.0, 5.0, 15.0, 60.0, 300.0)  # until the next attempt to connect; the last one repeats
LOGIN_SECONDS: Final = 300.0  # after a refused password: more attempts could lock the account
OUTAGE_SECONDS: Final = 5.0  # until the database is asked again
RETRY_SECONDS: Final = (30.0, 120.0, 600.0, 3600.0)  # for an email that could not be taken; the last one repeats

CONNECTED = Gauge("chats_inbound_imap_connected", "Whether the mailbox that is read is open: 1 or 0", ["server"])

log = structlog.get_logger()


class _Outage(Exception):  # noqa: N818 - as others name it
    """The database cannot be reached: no email can be taken."""


class ImapMailbox:
    """A mailbox, and what is known of its emails: which were looked at, and which are to be tried again."""

    def __init__(
        self, reception: Reception, server: ImapServer, done: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._reception, self._server, self._done, self._now = reception, server, done, now
        self._connected = CONNECTED.labels(server.where)
        self._validity, self._batch = 0, BATCH
        self._next = 1  # the first email that was not looked at
        self._later: dict[int, tuple[float, int]] = {}  # when to try an email again, and how often it was tried

    async def run(self, stop: asyncio.Event) -> None:
        """Take emails in until `stop` is set. Connects again after every error."""
        self._connected.set(0)
        failures = 0
        while not stop.is_set():
            delay = 0.0
            try:
                failures = await self._use(await self.open(), stop, failures)
            except LoginRefused as error:
                delay = LOGIN_SECONDS
                self._complain("mailbox refuses the login", error, delay)
            except Exception as error:  # noqa: BLE001 - it is tried again
                delay = CONNECT_SECONDS[min(failures, len(CONNECT_SECONDS) - 1)]
                failures += 1
                self._complain("mailbox not available", error, delay)
            await pause(stop, delay)

    def _complain(self, event: str, error: Exception, delay: float) -> None:
        known = isinstance(error, (ImapError, ImapRefused, LoginRefused))
        log.warning(
            event, server=self._server.where, error=str(error) if known else type(error).__name__, retry_s=delay
        )
        log.debug(event, exc_info=error)

    async def open(self) -> ImapConnection:
        """Connect to the mailbox, with a folder for what is taken."""
        connection = await ImapConnection.open(self._server)
        try:
            validity = await self._prepare(connection)
        except BaseException:
            await connection.close()
            raise
        if validity != self._validity:  # its numbers stand for other emails
            self._validity, self._next = validity, 1
            self._later.clear()
        return connection

    async def _prepare(self, connection: ImapConnection) -> int:
        """Make the folder for what is taken, if there is none, and open the other one; return its validity."""
        if reason := connection.why_not_move:
            raise ImapRefused(reason)
        try:
            folder = self._done
            if not await connection.has_folder(folder):
                await connection.create(folder)
                log.info("folder made", folder=folder)
            folder = self._server.folder
            return await connection.select(folder)
        except ImapRefused as refused:
            raise ImapRefused(f"the folder {folder} cannot be made or opened: {refused}") from None

    async def _use(self, connection: ImapConnection, stop: asyncio.Event, failures: int) -> int:
        """Work with an open mailbox until it is lost or the process stops; return the failures in a row."""
        self._connected.set(1)
        log.info("mailbox opened", server=self._server.where, folder=self._server.folder)
        try:
            while not stop.is_set():
                try:
                    await self.look(connection, stop)
                except _Outage as outage:
                    log.warning("emails stay in the mailbox, database unavailable", error=str(outage))
                    await pause(stop, OUTAGE_SECONDS)
                    continue
                failures = 0
                await pause(stop, BETWEEN_LOOKS)
                await connection.wait(self._patience(connection), stop)
        except Exception as error:  # noqa: BLE001 - as above
            delay = CONNECT_SECONDS[min(failures, len(CONNECT_SECONDS) - 1)]
            self._complain("mailbox lost", error, delay)
            await pause(stop, delay)
            return failures + 1
        finally:
            self._connected.set(0)
            await connection.close()
        return failures

    def _patience(self, connection: ImapConnection) -> float:
        seconds = IDLE_SECONDS if "IDLE" in connection.capabilities else POLL_SECONDS
        first = min((at for at, _ in self._later.values()), default=self._now() + seconds)
        return min(seconds, max(first - self._now(), 0.0))

    async def look(self, connection: ImapConnection, stop: asyncio.Event) -> None:
        """Look at the emails that have come, and at those whose time has come again."""
        for uid in [uid for uid, (at, _) in self._later.items() if at <= self._now()]:
            await self._look_at(connection, [uid])
        uids = await connection.search(self._next)
        while uids and not stop.is_set():
            batch, uids = uids[: self._batch], uids[self._batch :]
            await self._look_at(connection, [uid for uid in batch if uid not in self._later])
            self._next = batch[-1] + 1
        self._batch = BATCH

    async def _look_at(self, connection: ImapConnection, uids: Sequence[int]) -> None:
        if not uids:
            return
        found = await self._headers(connection, uids)
        for uid in uids:
            headers = found.get(uid)
            message = parse_headers(headers.content) if headers is not None else Message()
            if headers is None or not addresses_in(message, self._reception.domain):  # gone meanwhile, or not ours
                self._later.pop(uid, None)
            elif headers.size > MAX_BYTES:
                self._later.pop(uid, None)
                log.warning("email stays in the mailbox, it is too large", uid=uid, size=headers.size)
            else:
                await self._try(connection, uid, message)

    async def _headers(self, connection: ImapConnection, uids: Sequence[int]) -> dict[int, Headers]:
        """Return the headers of emails. If one of them breaks the connection, smaller steps find out which."""
        try:
            return await connection.headers(uids, (*HEADERS, "return-path"))
        except (ImapError, ImapRefused):
            if len(uids) == 1:
                self._postpone(uids[0])
            self._batch = max(len(uids) // 8, 1)
            raise

    async def _try(self, connection: ImapConnection, uid: int, headers: Message) -> None:
        """Take one email. If that fails for itself, or it breaks the connection, it waits, and the others go on."""
        try:
            await self._take(connection, uid, headers)
        except ImapError:
            self._postpone(uid)
            raise
        except Exception as error:
            if is_temporary(error) or isinstance(error, TimeoutError):
                raise _Outage(type(error).__name__) from None
            delay = self._postpone(uid)
            log.warning("email stays in the mailbox", uid=uid, error=f"{type(error).__name__}: {error}", retry_s=delay)
            log.debug("email not taken", exc_info=True)
        else:
            self._later.pop(uid, None)

    def _postpone(self, uid: int) -> float:
        tries = self._later.get(uid, (0.0, 0))[1]
        delay = RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)]
        self._later[uid] = (self._now() + delay, tries + 1)
        return delay

    async def _take(self, connection: ImapConnection, uid: int, headers: Message) -> None:
        sender = envelope_sender(headers)
        found = [
            await self._reception.find(address, sender) for address in addresses_in(headers, self._reception.domain)
        ]
        if all(bound is UNKNOWN for bound in found):  # forged, or of another installation
            return
        content = await connection.fetch(uid, MAX_BYTES)
        if content is None:
            return
        if len(content) > MAX_BYTES:
            log.warning("email stays in the mailbox, it is too large", uid=uid)
            return
        for bound in found:
            taken = bound if isinstance(bound, Refused) else await self._reception.keep(bound, sender, content)
            if isinstance(taken, Refused):
                log.info("email refused", uid=uid, reason=taken.reason)
        failpoint("inbound-imap-kept")
        await connection.move(uid, self._done)
