"""Hand one mail at a time to an SMTP server, and say exactly how far each try came.

The phases are driven one by one, because what a failure means depends on where it happened: see `Outcome`.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from aiosmtplib import SMTP, SMTPException, SMTPResponseException

from services.notifications.mail.addresses import addr_spec, sender_address
from services.notifications.mail.server import SmtpServer, parse_smtp_url
from services.notifications.rules import Outcome, Reason
from shared.failpoints import failpoint

__all__ = ["Phase", "SmtpConnection", "SmtpServer", "Timeouts", "Try", "parse_smtp_url"]

REPLY_TIMEOUT = 30.0
# RFC 5321, 4.5.3.2.6: a shorter one makes duplicates, because the server may already have the mail.
END_OF_DATA_TIMEOUT = 600.0
GOODBYE_TIMEOUT = 2.0  # nothing depends on the answer to it
MAX_REPLY = 500


class Phase(StrEnum):
    """How far a try came."""

    COMPOSE = "compose"
    """Its text could not be made: nothing was said to any server."""
    ADDRESS = "address"
    CONNECT = "connect"
    BANNER = "banner"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    END_OF_DATA = "end-of-data"
    LEASE = "lease"
    """Not known: the process that was sending is gone."""


# A 5xx here is no fault of the mail: none would go through.
SET_UP = {Phase.CONNECT, Phase.BANNER, Phase.EHLO, Phase.STARTTLS, Phase.AUTH, Phase.MAIL}
# Up to here a break may be no more than the end of an idle connection.
BEFORE_THE_DOT = {Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.CONTENT}

DONE, TRY_AGAIN, PERMANENT = 2, 4, 5  # the first digit of a reply
START_INPUT, SHUTTING_DOWN = 354, 421


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for the server: for each reply, and for the one behind the final dot."""

    reply: float = REPLY_TIMEOUT
    end_of_data: float = END_OF_DATA_TIMEOUT


@dataclass(frozen=True, slots=True)
class Try:
    """How one try ended: the phase it came to, and the server's reply there or what went wrong."""

    outcome: Outcome
    phase: Phase
    code: int | None
    reply: str
    """One line of at most 500 characters."""
    rejection: Reason = Reason.REJECTED
    """Why the mail was rejected, if it was."""


class SmtpConnection:
    """A connection that is opened by the first mail and kept for the next; one mail at a time."""

    def __init__(
        self, server: SmtpServer, *, tls: ssl.SSLContext | None = None, timeouts: Timeouts = Timeouts()
    ) -> None:
        self._server = server
        self._tls = tls
        self._timeouts = timeouts
        self._smtp: SMTP | None = None
        self._phase = Phase.ADDRESS
        self._limit: asyncio.Timeout | None = None  # of the dialogue that is under way

    async def send(
        self, *, sender: str, recipient: str, content: bytes, before_data: Callable[[], Awaitable[bool]]
    ) -> Try:
        """Try once to hand over a mail.

        `sender` is an address or `Name <address>`. `before_data` is awaited when the server has taken the
        recipient and nothing of the mail was sent; False gives the mail up (`abandoned`). It is awaited
        again if a kept connection breaks there and a new one is made. Only what it raises is raised. When
        `break_off` was called, the mail is given up as well, or uncertain if the final dot was sent.
        """
        self._phase = Phase.ADDRESS
        try:
            recipient = addr_spec(recipient)
        except ValueError as error:
            return self._not_supported(str(error))
        try:
            sender = addr_spec(sender_address(sender))
            sender.encode("ascii")
        except ValueError:
            return Try(Outcome.MISCONFIGURED, self._phase, None, "the sender needs an address of ASCII characters")
        kept = self._smtp is not None and self._smtp.is_connected
        self._limit = limit = asyncio.timeout(None)
        result: Try | None = None
        try:
            async with limit:
                result = await self._attempt(sender, recipient, content, before_data)
                if kept and _was_hung_up(result):
                    self._drop()
                    result = None
                    result = await self._attempt(sender, recipient, content, before_data)
                await self._settle(result)
        except BaseException as error:
            self._drop()  # broken off, cancelled, or `before_data` failed: the dialogue stopped anywhere
            if not isinstance(error, TimeoutError) or not limit.expired():
                raise
        finally:
            self._limit = None
        return result or self._broken_off()

    def break_off(self) -> None:
        """End the dialogue that is under way, if any: its `send` returns at once."""
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Say goodbye and close; never fails."""
        smtp, self._smtp = self._smtp, None
        if smtp is not None and smtp.is_connected:
            try:
                await smtp.quit(timeout=GOODBYE_TIMEOUT)
            except (SMTPException, OSError):
                pass
            finally:
                smtp.close()

    async def _attempt(
        self, sender: str, recipient: str, content: bytes, before_data: Callable[[], Awaitable[bool]]
    ) -> Try:
        """Connect if need be, and walk through the phases."""
        try:
            smtp = await self._connected()
            self._phase = Phase.ADDRESS
            if not recipient.isascii() and not smtp.supports_extension("smtputf8"):
                return self._not_supported("the server does not take addresses beyond ASCII (no SMTPUTF8)")
            await self._envelope(smtp, sender, recipient)
        except (SMTPException, OSError, UnicodeError) as error:  # UnicodeError: a host that is no name
            return self._failed(error, international=not recipient.isascii())
        self._phase = Phase.DATA
        if not await before_data():
            return Try(Outcome.ABANDONED, self._phase, None, "the lease was no longer ours")
        try:
            return await self._data(smtp, content)
        except (SMTPException, OSError) as error:
            return self._failed(error)

    async def _connected(self) -> SMTP:
        """Return the kept connection, or a new one: connected, secured and logged in."""
        if self._smtp is not None and self._smtp.is_connected:
            return self._smtp
        server = self._server
        self._smtp = smtp = SMTP(
            hostname=server.host,
            port=server.port,
            use_tls=server.security == "tls",
            start_tls=False,  # by hand, below
            tls_context=self._tls,
            timeout=self._timeouts.reply,
            local_hostname=_own_name(),
        )
        self._phase = Phase.CONNECT
        failpoint("smtp-connecting")
        await smtp.connect()
        self._phase = Phase.EHLO
        await smtp.ehlo()
        if server.security == "starttls":
            self._phase = Phase.STARTTLS
            await smtp.starttls()
            self._phase = Phase.EHLO
            await smtp.ehlo()
        if server.user is not None and server.password is not None:
            self._phase = Phase.AUTH
            await smtp.login(server.user, server.password)
        failpoint("smtp-connected")
        return smtp

    async def _envelope(self, smtp: SMTP, sender: str, recipient: str) -> None:
        """Name sender and recipient. No SIZE: too large is then said to DATA, where it is the mail's fault."""
        international = not recipient.isascii()
        encoding = "utf-8" if international else "ascii"
        self._phase = Phase.MAIL
        await smtp.mail(sender, options=["BODY=8BITMIME", "SMTPUTF8"] if international else [], encoding=encoding)
        failpoint("smtp-sender-taken")
        self._phase = Phase.RCPT
        await smtp.rcpt(recipient, encoding=encoding)
        failpoint("smtp-recipient-taken")

    async def _data(self, smtp: SMTP, content: bytes) -> Try:
        """Send the mail. aiosmtplib's own `data` does not tell a failure before the dot from one behind it."""
        response = await smtp.execute_command(b"DATA")
        if response.code != START_INPUT:
            raise SMTPResponseException(response.code, response.message)
        protocol = smtp.protocol
        if protocol is None or smtp.transport is None:
            raise ConnectionResetError("connection lost")
        failpoint("smtp-data-begun")
        self._phase = Phase.CONTENT
        # With no slack in the buffer, `drain` returns when the system has taken all that was written.
        cast("asyncio.WriteTransport", smtp.transport).set_write_buffer_limits(high=1)
        protocol.write(_dot_stuffed(content))
        async with asyncio.timeout(self._timeouts.reply):
            # What StreamWriter.drain calls; a StreamWriter would close the transport when collected.
            await protocol._drain_helper()  # noqa: SLF001 - it has no public name
        failpoint("smtp-content-sent")
        protocol.write(b".\r\n")
        failpoint("smtp-dot-sent")
        self._phase = Phase.END_OF_DATA
        response = await protocol.read_response(timeout=self._timeouts.end_of_data)
        failpoint("smtp-reply-read")
        if response.code // 100 != DONE:
            raise SMTPResponseException(response.code, response.message)
        return Try(Outcome.ACCEPTED, self._phase, response.code, _one_line(response.message))

    def _failed(self, error: Exception, *, international: bool = False) -> Try:
        """Say what an error in the present phase means."""
        code, text = None, str(error) or type(error).__name__
        if isinstance(error, SMTPResponseException):
            code, text = error.code if error.code > 0 else None, error.message
            if self._phase is Phase.CONNECT:
                self._phase = Phase.BANNER
        if international and self._phase is Phase.MAIL and code is not None and code // 100 == PERMANENT:
            # Offered and then refused: all that is known is that this address fails, so other mail goes on.
            return self._not_supported(text, code)
        return Try(_outcome(self._phase, code, error), self._phase, code, _one_line(text))

    def _not_supported(self, text: str, code: int | None = None) -> Try:
        return Try(Outcome.REJECTED, self._phase, code, _one_line(text), Reason.ADDRESS_NOT_SUPPORTED)

    def _broken_off(self) -> Try:
        """Say what it means that we ended the dialogue in the present phase: without its dot no server takes a mail."""
        sent = self._phase is Phase.END_OF_DATA
        return Try(Outcome.UNCERTAIN if sent else Outcome.ABANDONED, self._phase, None, "the sender had to stop")

    async def _settle(self, result: Try) -> None:
        """Make the connection ready for the next mail, or close it; the outcome stands either way."""
        if result.outcome is Outcome.ACCEPTED or self._smtp is None:
            return
        if not _ended_in_order(result):
            self._drop()
            return
        try:
            await self._smtp.rset()
        except (SMTPException, OSError):
            self._drop()

    def _drop(self) -> None:
        """Close without a word."""
        smtp, self._smtp = self._smtp, None
        if smtp is not None:
            smtp.close()


def _outcome(phase: Phase, code: int | None, error: Exception) -> Outcome:
    """Say what a failure in `phase` means; `code` is None when there was no SMTP reply."""
    digit = code // 100 if code is not None else None
    broke = isinstance(error, OSError) and digit is None
    if digit == TRY_AGAIN:
        return Outcome.DEFERRED
    if digit != PERMANENT and phase is Phase.END_OF_DATA:
        return Outcome.UNCERTAIN
    if broke and phase not in {Phase.CONNECT, Phase.STARTTLS}:
        return Outcome.DEFERRED
    if phase in SET_UP:
        return Outcome.MISCONFIGURED
    return Outcome.REJECTED if digit == PERMANENT else Outcome.DEFERRED


def _was_hung_up(result: Try) -> bool:
    """Tell whether the server, or something on the way, had given up an idle connection: no one's fault."""
    hung_up = result.code is None or result.code == SHUTTING_DOWN
    return result.outcome is Outcome.DEFERRED and result.phase in BEFORE_THE_DOT and hung_up


def _ended_in_order(result: Try) -> bool:
    """Tell whether the server waits for the next command, and RSET makes it forget this mail."""
    if result.outcome is Outcome.ABANDONED or result.phase is Phase.ADDRESS:
        return True
    answered = result.code is not None and result.code != SHUTTING_DOWN
    in_a_mail = result.phase in BEFORE_THE_DOT or result.phase is Phase.END_OF_DATA
    return answered and in_a_mail and result.outcome in {Outcome.REJECTED, Outcome.DEFERRED}


def _dot_stuffed(content: bytes) -> bytes:
    """Return the mail as it follows DATA: every line ended by CRLF, a leading dot doubled, no final dot."""
    lines = b"\r\n".join([b"", *content.splitlines(), b""])
    return lines.replace(b"\r\n.", b"\r\n..").removeprefix(b"\r\n")


def _one_line(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:MAX_REPLY]


def _own_name() -> str:
    """Return the name for EHLO. Never a look-up, which may take longer than all the rest."""
    name = socket.gethostname()
    return name if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name) else "[127.0.0.1]"
