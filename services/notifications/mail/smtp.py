"""Send one email at a time to an SMTP server, and report which phase each attempt reached.

The phases run one by one because the meaning of a failure depends on its phase: see `replies.classify_failure`.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from aiosmtplib import SMTP, SMTPException, SMTPResponseException

from services.notifications.mail.addresses import addr_spec, sender_address
from services.notifications.mail.attempts import Attempt, Phase
from services.notifications.mail.replies import (
    DONE,
    PERMANENT,
    START_INPUT,
    can_reset,
    classify_failure,
    one_line,
    was_idle_disconnect,
)
from services.notifications.mail.smtp_url import LOOPBACK, SmtpServer, parse_smtp_url
from services.notifications.mail.wire_format import dot_stuffed, size_limit, with_crlf
from services.notifications.rules import Outcome, Reason
from shared.process.failpoints import failpoint

__all__ = ["Attempt", "Phase", "SmtpConnection", "SmtpServer", "Timeouts", "parse_smtp_url"]

T = TypeVar("T")

REPLY_TIMEOUT = 30.0
# RFC 5321, 4.5.3.2.6: a shorter timeout causes duplicates, because the server may already have the email.
END_OF_DATA_TIMEOUT = 600.0
QUIT_TIMEOUT = 2.0  # short: the reply to QUIT does not matter
ERRORS = (SMTPException, OSError, UnicodeError)  # UnicodeError: an invalid host name


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for each reply, and for the reply after the final dot."""

    reply: float = REPLY_TIMEOUT
    end_of_data: float = END_OF_DATA_TIMEOUT


class SmtpConnection:
    """A connection for one email at a time, opened by the first email at the latest and kept for the next."""

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
        self._limit: asyncio.Timeout | None = None  # of the dialogue in progress

    @property
    def is_open(self) -> bool:
        """Whether it is connected, secured and logged in, as far as is known."""
        return self._ready and self._smtp is not None and self._smtp.is_connected

    @property
    def extensions(self) -> Mapping[str, str]:
        """The extensions that the server announced, in lower case, with their parameters; none before it is open."""
        return self._smtp.esmtp_extensions if self._smtp is not None else {}

    async def open(self) -> Attempt | None:
        """Connect, start TLS and log in, unless already done; return the failure, or None."""
        return await self._unless_aborted(self._open)

    async def send(
        self, *, sender: str, recipient: str, content: bytes, before_data: Callable[[], Awaitable[bool]]
    ) -> Attempt:
        """Attempt to send an email once.

        `sender` is an address or `Name <address>`. `before_data` is awaited after the server has accepted the recipient
        and before any content is sent; if it returns False, the outcome is `abandoned`. It is awaited again if a kept
        connection breaks there and a new one is opened. Only its errors are raised. After `abort` the outcome is
        `abandoned`, or `uncertain` if the final dot was sent.
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
            return Attempt(Outcome.MISCONFIGURED, self._phase, None, "the sender's address must be ASCII")
        content = with_crlf(content)

        result: Attempt | None = None

        async def attempt() -> Attempt:
            nonlocal result
            kept = self._smtp is not None and self._smtp.is_connected
            result = await self._attempt(sender, recipient, content, before_data)
            if kept and was_idle_disconnect(result):
                self._drop()
                result = None
                result = await self._attempt(sender, recipient, content, before_data)
            await self._reset(result)
            return result

        final = await self._unless_aborted(attempt)
        return result or final  # keep the outcome if the server hangs after its reply

    def abort(self) -> None:
        """Abort the dialogue in progress, if any: its `send` returns at once."""
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Quit and close the connection; never fails."""
        smtp, self._smtp = self._smtp, None
        if smtp is not None and smtp.is_connected:
            try:
                await smtp.quit(timeout=QUIT_TIMEOUT)
            except (SMTPException, OSError):
                pass
            finally:
                smtp.close()

    async def _unless_aborted(self, dialogue: Callable[[], Awaitable[T]]) -> T | Attempt:
        self._limit = limit = asyncio.timeout(None)
        try:
            async with limit:
                return await dialogue()
        except BaseException as error:
            self._drop()  # aborted, cancelled, or `before_data` failed: the state of the dialogue is unknown
            if not isinstance(error, TimeoutError) or not limit.expired():
                raise
        finally:
            self._limit = None
        return self._aborted()

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
        """Connect if needed, and go through the phases."""
        try:
            smtp = await self._connected()
            self._phase = Phase.ADDRESS
            if not recipient.isascii() and not smtp.supports_extension("smtputf8"):
                return self._rejected("the server does not accept non-ASCII addresses (no SMTPUTF8)")
            if (limit := size_limit(smtp.esmtp_extensions)) and len(content) > limit:
                self._phase = Phase.SIZE
                text = f"the email has {len(content)} bytes, the server accepts at most {limit} (SIZE)"
                return self._rejected(text, reason=Reason.TOO_LARGE)
            await self._envelope(smtp, sender, recipient, len(content))
        except ERRORS as error:
            return self._failed(error, international=not recipient.isascii())
        self._phase = Phase.DATA
        if not await before_data():
            return Attempt(Outcome.ABANDONED, self._phase, None, "the lease was lost")
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
            start_tls=False,  # done below
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
        """Send MAIL and RCPT."""
        international = not recipient.isascii()
        encoding = "utf-8" if international else "ascii"
        options = [f"SIZE={size}"] if smtp.supports_extension("size") else []
        options += ["BODY=8BITMIME", "SMTPUTF8"] if international else []
        self._phase = Phase.MAIL
        await smtp.mail(sender, options=options, encoding=encoding)
        failpoint("smtp-sender-accepted")
        self._phase = Phase.RCPT
        await smtp.rcpt(recipient, encoding=encoding)
        failpoint("smtp-recipient-accepted")

    async def _data(self, smtp: SMTP, content: bytes) -> Attempt:
        """Send the content. aiosmtplib's `data` cannot distinguish failures before and after the final dot."""
        response = await smtp.execute_command(b"DATA")
        if response.code != START_INPUT:
            raise SMTPResponseException(response.code, response.message)
        protocol = smtp.protocol
        if protocol is None or smtp.transport is None:
            raise ConnectionResetError("connection lost")
        failpoint("smtp-data-begun")
        self._phase = Phase.CONTENT
        # With an empty buffer, `drain` returns only after everything was passed to the operating system.
        cast("asyncio.WriteTransport", smtp.transport).set_write_buffer_limits(high=1)
        protocol.write(dot_stuffed(content))
        async with asyncio.timeout(self._timeouts.reply):
            # StreamWriter.drain calls it too, but a StreamWriter closes the transport when garbage collected.
            await protocol._drain_helper()  # noqa: SLF001 - there is no public method
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
        """Return the attempt for an error in the current phase."""
        code, text = None, str(error) or type(error).__name__
        if isinstance(error, SMTPResponseException):
            code, text = error.code if error.code > 0 else None, error.message
            if self._phase is Phase.CONNECT:
                self._phase = Phase.BANNER
        result = classify_failure(self._phase, code, text, error)
        if international and self._phase is Phase.MAIL and code is not None and code // 100 == PERMANENT:
            # SMTPUTF8 was offered and then refused: only this address is known to fail, so other emails continue.
            return self._rejected(text, code)
        return result

    def _rejected(self, text: str, code: int | None = None, reason: Reason = Reason.ADDRESS_NOT_SUPPORTED) -> Attempt:
        return Attempt(Outcome.REJECTED, self._phase, code, one_line(text), reason)

    def _aborted(self) -> Attempt:
        """Return the attempt for an aborted dialogue: without the final dot no server accepts an email."""
        sent = self._phase is Phase.END_OF_DATA
        return Attempt(
            Outcome.UNCERTAIN if sent else Outcome.ABANDONED, self._phase, None, "the sending process was stopped"
        )

    async def _reset(self, result: Attempt) -> None:
        """Make the connection ready for the next email, or close it; does not change the outcome."""
        if result.outcome is Outcome.ACCEPTED or self._smtp is None:
            return
        if not can_reset(result):
            self._drop()
            return
        try:
            await self._smtp.rset()
        except (SMTPException, OSError):
            self._drop()

    def _drop(self) -> None:
        """Close without QUIT."""
        smtp, self._smtp = self._smtp, None
        if smtp is not None:
            smtp.close()
