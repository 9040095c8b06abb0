"""Hand one mail at a time to an SMTP server, and say exactly how far each try came.

The phases are driven one by one, because what a failure means depends on where it happened: see `replies.judge`.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from aiosmtplib import SMTP, SMTPException, SMTPResponseException

from services.notifications.mail.addresses import addr_spec, sender_address
from services.notifications.mail.attempts import Attempt, Phase
from services.notifications.mail.replies import (
    DONE,
    PERMANENT,
    START_INPUT,
    ended_in_order,
    judge,
    one_line,
    was_hung_up,
)
from services.notifications.mail.smtp_url import LOOPBACK, SmtpServer, parse_smtp_url
from services.notifications.rules import Outcome, Reason
from shared.failpoints import failpoint

__all__ = ["Attempt", "Phase", "SmtpConnection", "SmtpServer", "Timeouts", "parse_smtp_url"]

T = TypeVar("T")

REPLY_TIMEOUT = 30.0
# RFC 5321, 4.5.3.2.6: a shorter one makes duplicates, because the server may already have the mail.
END_OF_DATA_TIMEOUT = 600.0
GOODBYE_TIMEOUT = 2.0  # nothing depends on the answer to it
ERRORS = (SMTPException, OSError, UnicodeError)  # UnicodeError: a host that is no name


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for the server: for each reply, and for the one behind the final dot."""

    reply: float = REPLY_TIMEOUT
    end_of_data: float = END_OF_DATA_TIMEOUT


class SmtpConnection:
    """A connection that is opened by the first mail, unless it was before, and kept for the next; one at a time."""

    def __init__(
        self,
        server: SmtpServer,
        *,
        ehlo: str = LOOPBACK,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts = Timeouts(),
    ) -> None:
        self._server = server
        self._ehlo = ehlo
        self._tls = tls
        self._timeouts = timeouts
        self._smtp: SMTP | None = None
        self._ready = False
        self._phase = Phase.ADDRESS
        self._limit: asyncio.Timeout | None = None  # of the dialogue that is under way

    @property
    def is_open(self) -> bool:
        """Whether it is connected, secured and logged in, as far as is known."""
        return self._ready and self._smtp is not None and self._smtp.is_connected

    async def open(self) -> Attempt | None:
        """Connect, secure the connection and log in, unless that was done; return why it failed, None if it did not."""
        return await self._until_broken_off(self._open)

    async def send(
        self, *, sender: str, recipient: str, content: bytes, before_data: Callable[[], Awaitable[bool]]
    ) -> Attempt:
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
            return self._rejected(str(error))
        try:
            sender = addr_spec(sender_address(sender))
            sender.encode("ascii")
        except ValueError:
            return Attempt(Outcome.MISCONFIGURED, self._phase, None, "the sender needs an address of ASCII characters")
        content = _with_crlf(content)

        result: Attempt | None = None

        async def attempt() -> Attempt:
            nonlocal result
            kept = self._smtp is not None and self._smtp.is_connected
            result = await self._attempt(sender, recipient, content, before_data)
            if kept and was_hung_up(result):
                self._drop()
                result = None
                result = await self._attempt(sender, recipient, content, before_data)
            await self._settle(result)
            return result

        ended = await self._until_broken_off(attempt)
        return result or ended  # the outcome stands, also when the server hangs behind its answer

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

    async def _until_broken_off(self, dialogue: Callable[[], Awaitable[T]]) -> T | Attempt:
        self._limit = limit = asyncio.timeout(None)
        try:
            async with limit:
                return await dialogue()
        except BaseException as error:
            self._drop()  # broken off, cancelled, or `before_data` failed: the dialogue stopped anywhere
            if not isinstance(error, TimeoutError) or not limit.expired():
                raise
        finally:
            self._limit = None
        return self._broken_off()

    async def _open(self) -> Attempt | None:
        try:
            await self._connected()
        except ERRORS as error:
            failure = self._failed(error)
            self._drop()
            return failure
        return None

    async def _attempt(
        self, sender: str, recipient: str, content: bytes, before_data: Callable[[], Awaitable[bool]]
    ) -> Attempt:
        """Connect if need be, and walk through the phases."""
        try:
            smtp = await self._connected()
            self._phase = Phase.ADDRESS
            if not recipient.isascii() and not smtp.supports_extension("smtputf8"):
                return self._rejected("the server does not take addresses beyond ASCII (no SMTPUTF8)")
            if (most := _size_limit(smtp)) and len(content) > most:
                self._phase = Phase.SIZE
                text = f"the email has {len(content)} bytes, and the server accepts {most} at most (SIZE)"
                return self._rejected(text, reason=Reason.TOO_LARGE)
            await self._envelope(smtp, sender, recipient, len(content))
        except ERRORS as error:
            return self._failed(error, international=not recipient.isascii())
        self._phase = Phase.DATA
        if not await before_data():
            return Attempt(Outcome.ABANDONED, self._phase, None, "the lease was no longer ours")
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
            local_hostname=self._ehlo,
        )
        self._ready, self._phase = False, Phase.CONNECT
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
        self._ready = True
        failpoint("smtp-connected")
        return smtp

    async def _envelope(self, smtp: SMTP, sender: str, recipient: str, size: int) -> None:
        """Name sender, size and recipient."""
        international = not recipient.isascii()
        encoding = "utf-8" if international else "ascii"
        options = [f"SIZE={size}"] if smtp.supports_extension("size") else []
        options += ["BODY=8BITMIME", "SMTPUTF8"] if international else []
        self._phase = Phase.MAIL
        await smtp.mail(sender, options=options, encoding=encoding)
        failpoint("smtp-sender-taken")
        self._phase = Phase.RCPT
        await smtp.rcpt(recipient, encoding=encoding)
        failpoint("smtp-recipient-taken")

    async def _data(self, smtp: SMTP, content: bytes) -> Attempt:
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
        return Attempt(Outcome.ACCEPTED, self._phase, response.code, one_line(response.message))

    def _failed(self, error: Exception, *, international: bool = False) -> Attempt:
        """Say what an error in the present phase means."""
        code, text = None, str(error) or type(error).__name__
        if isinstance(error, SMTPResponseException):
            code, text = error.code if error.code > 0 else None, error.message
            if self._phase is Phase.CONNECT:
                self._phase = Phase.BANNER
        result = judge(self._phase, code, text, error)
        if international and self._phase is Phase.MAIL and code is not None and code // 100 == PERMANENT:
            # Offered and then refused: all that is known is that this address fails, so other mail goes on.
            return self._rejected(text, code)
        return result

    def _rejected(self, text: str, code: int | None = None, reason: Reason = Reason.ADDRESS_NOT_SUPPORTED) -> Attempt:
        return Attempt(Outcome.REJECTED, self._phase, code, one_line(text), reason)

    def _broken_off(self) -> Attempt:
        """Say what it means that we ended the dialogue in the present phase: without its dot no server takes a mail."""
        sent = self._phase is Phase.END_OF_DATA
        return Attempt(Outcome.UNCERTAIN if sent else Outcome.ABANDONED, self._phase, None, "the sender had to stop")

    async def _settle(self, result: Attempt) -> None:
        """Make the connection ready for the next mail, or close it; the outcome stands either way."""
        if result.outcome is Outcome.ACCEPTED or self._smtp is None:
            return
        if not ended_in_order(result):
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


def _size_limit(smtp: SMTP) -> int | None:
    """Return how many bytes an email may have (RFC 1870); None when the server has said no number, or 0."""
    said = smtp.esmtp_extensions.get("size", "").strip()
    return int(said) or None if said.isascii() and said.isdigit() else None


def _with_crlf(content: bytes) -> bytes:
    """Return the mail with every line ended by CRLF."""
    return b"\r\n".join([*content.splitlines(), b""])


def _dot_stuffed(content: bytes) -> bytes:
    """Return the mail as it follows DATA: a leading dot doubled, no final dot."""
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..").removeprefix(b"\r\n")
