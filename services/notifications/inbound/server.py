"""The LMTP or SMTP server that a mail server delivers to. It answers 250 for an email when its row is committed."""

import asyncio
import contextlib
import logging
import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final, cast

import structlog
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session

from services.notifications.inbound.reception import MAX_BYTES, Reception, Recipient, Refused
from services.notifications.mail.listen_url import Listen
from shared.process.failpoints import failpoint

MAX_RECIPIENTS: Final = 20
MAX_CONNECTIONS: Final = 100
PIECE: Final = 64 * 1024  # bytes that are received at once, with lines of any length
END: Final = b"\r\n.\r\n"
IDLE_SECONDS: Final = 120.0
CONNECTION_SECONDS: Final = 1800.0
GRACE: Final = 8.0  # seconds that emails in transfer have after a stop
# An address as nearly all are written, and the parameters behind it.
_WORD: Final = r"[\w!#$%&'*+/=?^`{|}~-]+"
_PLAIN: Final = re.compile(rf"<({_WORD}(?:\.{_WORD})*@[\w-]+(?:\.[\w-]+)*)>((?: [\w=.+-]+)*)", re.ASCII)

log = structlog.get_logger()
logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # it logs addresses and every line

Reply = str


class _Envelope(Envelope):
    """An envelope that knows what its recipients stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.bound: list[Recipient] = []


class Receiver:
    """The answers of the server: what aiosmtpd calls at each step of a dialogue."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: Sequence[str]
    ) -> Reply:
        """Accept a recipient that stands for a conversation, and say why another one is refused."""
        if len(envelope.rcpt_tos) >= MAX_RECIPIENTS:
            return "452 4.5.3 Too many recipients"
        try:
            bound = await self._reception.find(address, _bare(envelope.mail_from))
        except Exception as error:  # noqa: BLE001 - the sender's server tries again
            return _postpone(error)
        if isinstance(bound, Refused):
            return _refusal(bound)
        assert isinstance(envelope, _Envelope)  # noqa: S101 - the connection makes no other
        envelope.bound.append(bound)
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> Reply:  # noqa: N802 - as above
        """Keep an email for each of its recipients. LMTP has an answer for each, in their order."""
        # Not cancelled with the connection: the row is then there when the sender's server tries again.
        assert isinstance(envelope, _Envelope)  # noqa: S101 - as above
        assert isinstance(envelope.content, bytes)  # noqa: S101 - str only with `decode_data`
        replies = await asyncio.shield(self._keep(envelope.bound, _bare(envelope.mail_from), envelope.content))
        if isinstance(server, LMTP):
            return "\r\n".join(replies)
        return next((reply for reply in replies if not reply.startswith("250")), replies[0])

    async def _keep(self, recipients: Sequence[Recipient], sender: str, content: bytes) -> list[Reply]:
        failpoint("inbound-read")
        replies = []
        for bound in recipients:
            try:
                taken = await self._reception.keep(bound, sender, content)
            except Exception as error:  # noqa: BLE001 - the sender's server tries again
                replies.append(_postpone(error))
                continue
            if isinstance(taken, Refused):
                replies.append(_refusal(taken))
            else:
                replies.append(f"250 2.0.0 OK, kept as {taken.id}" if taken else "250 2.0.0 OK")
        return replies

    async def handle_exception(self, error: Exception) -> Reply:
        """Answer after a bug: nothing is lost, because the sender's server tries again."""
        log.error("email not taken in", error=type(error).__name__)
        log.debug("email not taken in", exc_info=error)
        return "451 4.3.0 Internal error, try again later"


def _bare(sender: str | None) -> str:
    """Return the address of an envelope; empty for the sender of a delivery report, which aiosmtpd gives as `<>`."""
    return (sender or "").strip("<>")


def _refusal(refused: Refused) -> Reply:
    return f"550 {refused.status} {refused.text}"


def _postpone(error: Exception) -> Reply:
    log.warning("email not taken in, database unavailable", error=type(error).__name__)
    return "451 4.3.0 The database is unavailable, try again later"


def read_plain_address(argument: str) -> tuple[str, str] | None:
    """Return the address in the argument of a command, and what follows it; None if it has not the usual form.

    aiosmtpd's own reader, of all forms, takes 0.1 ms for each.
    """
    plain = _PLAIN.fullmatch(argument)
    return (plain[1], plain[2]) if plain is not None else None


class InboundServer:
    """The listening server with its connections."""

    def __init__(self, receiver: Receiver, listen: Listen, hostname: str) -> None:
        self._receiver, self._listen, self._hostname = receiver, listen, hostname
        self._connections: set[_Dialogue] = set()
        self._all_closed = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises OSError if the address cannot be used."""
        loop = asyncio.get_running_loop()
        if self._listen.path is not None:
            self._server = await loop.create_unix_server(self._connect, self._listen.path)
        else:
            self._server = await loop.create_server(self._connect, self._listen.host, self._listen.port)

    def _connect(self) -> asyncio.Protocol:
        kind = _LmtpDialogue if self._listen.is_lmtp else _SmtpDialogue
        dialogue: _Dialogue = kind(
            self._receiver,
            connections=self._connections,
            all_closed=self._all_closed,
            data_size_limit=MAX_BYTES,
            enable_SMTPUTF8=True,
            hostname=self._hostname,
            ident="Customer Chats",
            timeout=IDLE_SECONDS,
            loop=asyncio.get_running_loop(),
        )
        return dialogue

    async def stop(self) -> None:
        """Stop listening. Emails in transfer have some seconds, then their senders' servers try again later."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE if self._connections else 0):
                await self._all_closed.wait()
        for connection in list(self._connections):
            connection.abort()


class _Dialogue(SMTP):
    """A connection: one of a limited number, for a limited time, and with an end for idle ones at a stop."""

    line_length_limit = PIECE  # a limit of aiosmtpd for commands, which have a smaller one as well

    def __init__(self, *args: Any, connections: "set[_Dialogue]", all_closed: asyncio.Event, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connections, self._all_closed = connections, all_closed
        self._in_transfer, self._stopping = False, False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        too_many = len(self._connections) >= MAX_CONNECTIONS
        if too_many:
            cast("asyncio.Transport", transport).write(b"421 4.7.0 Too many connections, try again later\r\n")
        self._connections.add(self)
        self._all_closed.clear()
        self._deadline = asyncio.get_running_loop().call_later(CONNECTION_SECONDS, self.abort)
        super().connection_made(transport)
        if too_many:
            transport.close()

    def _create_envelope(self) -> Envelope:
        return _Envelope()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        if not self._connections:
            self._all_closed.set()
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(error)

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        return read_plain_address(arg) or super()._getaddr(arg)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 - aiosmtpd's name
        """Receive an email in large pieces; aiosmtpd keeps it as a list of its lines, at twice its size."""
        if await self.check_helo_needed() or self.envelope is None:
            return
        if not self.envelope.rcpt_tos:
            await self.push("503 5.5.1 Error: need RCPT command")
            return
        if arg or self._reader._buffer:  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio's, as below
            await self.push("501 5.5.2 Syntax: DATA, then wait for 354")
            return
        self._in_transfer = True
        try:
            content = await self._receive()
            if content is None:
                answer = f"552 5.3.4 The email is larger than {MAX_BYTES} bytes"
                answers = len(self.envelope.rcpt_tos) if isinstance(self, LMTP) else 1
                await self.push("\r\n".join([answer] * answers))
            else:
                self.envelope.content = self.envelope.original_content = content
                await self.push(str(await self._call_handler_hook("DATA")))
            self._set_post_data_state()  # type: ignore[no-untyped-call]
        finally:
            self._in_transfer = False
            if self._stopping:
                self.abort()

    async def _receive(self) -> bytes | None:
        """Return an email up to its final dot, without the dots that were added; None if it is too large."""
        # The end is a dot between two line breaks, also of an email without a line.
        self._reader.feed_data(b"\r\n")
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        received, is_complete = BytesIO(), False  # gives its bytes without a copy
        size = 0
        while not is_complete:
            try:
                piece = await self._reader.readuntil(END)
                is_complete = True
            except asyncio.LimitOverrunError as error:
                piece = await self._reader.read(error.consumed)
            self._reset_timeout()
            # Without the line break that was put before the email.
            received.write(memoryview(piece)[0 if size else 2 :])
            size += len(piece)
            if size > MAX_BYTES + len(END):
                received = BytesIO()
        if size > MAX_BYTES + len(END):
            return None
        received.truncate(size - len(END))  # the line break before the dot is the email's
        email = received.getvalue()
        if b"\r\n.." in email:
            email = email.replace(b"\r\n..", b"\r\n.")
        return email[1:] if email.startswith(b"..") else email

    def stop(self) -> None:
        """Close the connection, after the email that it is transferring."""
        self._stopping = True
        if not self._in_transfer:
            self.abort()

    def abort(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.close()


class _SmtpDialogue(_Dialogue):
    """A connection that speaks SMTP."""


class _LmtpDialogue(_Dialogue, LMTP):
    """A connection that speaks LMTP."""
