"""A small IMAP client (RFC 3501): what it takes to read a shared mailbox without changing what belongs to others.

The libraries that exist miss an email that comes between a look and the wait for the next one (`IDLE`), or are under
the GPL.
"""

import asyncio
import contextlib
import re
import ssl
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from services.notifications.mail.imap_url import ImapServer
from services.notifications.mail.imap_wire import (
    MAX_LINE,
    REPLY_SECONDS,
    ImapError,
    ImapRefused,
    ImapWire,
    Line,
    LoginRefused,
    mailbox,
    quote,
    result_of,
    shown,
    text_of,
)

STEP: Final = 2**20  # bytes of an email that are fetched at once
MAX_HEADERS: Final = 16 * 1024  # bytes of an email's headers that are fetched to find out whether it is ours
_UID: Final = re.compile(rb"\bUID (\d+)")
_SIZE: Final = re.compile(rb"\bRFC822\.SIZE (\d+)", re.IGNORECASE)
_CODE: Final = re.compile(rb"\[(UIDVALIDITY|UIDNEXT) (\d+)\]", re.IGNORECASE)
_QUOTED: Final = re.compile(rb'BODY\[[^\]]*\](?:<\d+>)? (?:"((?:[^"\\]|\\.)*)"|NIL)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Headers:
    """Some headers of an email, and its size."""

    size: int
    content: bytes


class ImapConnection(ImapWire):
    """A connection to a mail server that is logged in."""

    @classmethod
    async def open(cls, server: ImapServer, context: ssl.SSLContext | None = None) -> Self:
        """Connect, start TLS and log in. Raises `ImapError`, `ImapRefused` or `LoginRefused`."""
        context = context or ssl.create_default_context()
        tls = context if server.security == "tls" else None
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                streams = await asyncio.open_connection(server.host, server.port, ssl=tls, limit=MAX_LINE)
        except (OSError, TimeoutError) as error:
            raise ImapError(text_of(error)) from None
        connection = cls(*streams)
        try:
            await connection._greet(server, context)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _greet(self, server: ImapServer, context: ssl.SSLContext) -> None:
        greeting = await self.line()
        if not greeting.text.upper().startswith((b"* OK", b"* PREAUTH")):
            raise ImapError(shown(greeting.text))
        await self.ask_capabilities()
        if server.security == "starttls":
            if "STARTTLS" not in self.capabilities:
                raise LoginRefused("the server offers no STARTTLS")
            await self.command("STARTTLS")
            if self._reader._buffer:  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio's; it would count as encrypted
                raise ImapError("the server sends more before TLS has begun")
            try:
                async with asyncio.timeout(REPLY_SECONDS):
                    await self._writer.start_tls(context, server_hostname=server.host)
            except (OSError, TimeoutError) as error:
                raise ImapError(text_of(error)) from None
            await self.ask_capabilities()  # what was said without TLS does not count
        if not greeting.text.upper().startswith(b"* PREAUTH"):
            await self._log_in(server.user, server.password)

    async def ask_capabilities(self) -> None:
        """Ask what the server can do."""
        for line in await self.command("CAPABILITY"):
            if line.text.upper().startswith(b"* CAPABILITY "):
                self.capabilities = frozenset(line.text[13:].decode("ascii", "replace").upper().split())

    async def _log_in(self, user: str, password: str) -> None:
        try:
            if "AUTH=PLAIN" in self.capabilities:
                secret = b64encode(f"\0{user}\0{password}".encode()).decode()
                await self.command("AUTHENTICATE PLAIN", continued=secret)
            elif "LOGINDISABLED" in self.capabilities:
                raise LoginRefused("the server accepts no password here: use imaps:// or imap+starttls://")
            else:
                await self.command(f"LOGIN {quote(user)} {quote(password)}")
        except ImapRefused as refused:
            raise LoginRefused(str(refused)) from None
        await self.ask_capabilities()

    async def select(self, folder: str) -> int:
        """Open a folder; return its validity: with another one, its ids stand for other emails."""
        self._count = 0
        lines = await self.command(f"SELECT {mailbox(folder)}")
        found = {match[1].upper(): int(match[2]) for line in lines if (match := _CODE.search(line.text))}
        self.news = True
        return found.get(b"UIDVALIDITY", 0)

    async def has_folder(self, folder: str) -> bool:
        """Return whether a folder exists."""
        try:
            await self.command(f"STATUS {mailbox(folder)} (UIDVALIDITY)")
        except ImapRefused:
            return False
        return True

    async def create(self, folder: str) -> None:
        """Make a folder."""
        await self.command(f"CREATE {mailbox(folder)}")

    async def search(self, first: int) -> list[int]:
        """Return the ids of emails from the first one on, in order. Those marked as deleted are left out."""
        self.news = False
        found: set[int] = set()
        for line in await self.command(f"UID SEARCH UID {first}:* UNDELETED"):
            if line.text.upper().startswith(b"* SEARCH"):
                found.update(int(uid) for uid in line.text[8:].split() if uid.isdigit())
        return sorted(uid for uid in found if uid >= first)  # `n:*` always has the last one

    async def headers(self, uids: Iterable[int], names: Iterable[str]) -> dict[int, Headers]:
        """Return some headers of emails. None of them counts as read by that."""
        items = f"BODY.PEEK[HEADER.FIELDS ({' '.join(names).upper()})]<0.{MAX_HEADERS}>"
        lines = await self.command(f"UID FETCH {','.join(map(str, uids))} (UID RFC822.SIZE {items})")
        found = {}
        for line in lines:
            uid, size, content = _uid(line), _SIZE.search(line.text), _content(line)
            if uid is not None and size is not None and content is not None:
                found[uid] = Headers(int(size[1]), content)
        return found

    async def fetch(self, uid: int, limit: int) -> bytes | None:
        """Return an email, fetched in steps; None if it is gone. It does not count as read by that.

        One that is larger than the limit is not fetched to its end. The size that a server tells may be wrong.
        """
        whole = bytearray()
        while len(whole) <= limit:
            lines = await self.command(f"UID FETCH {uid} (UID BODY.PEEK[]<{len(whole)}.{STEP}>)")
            pieces = [piece for line in lines if _uid(line) == uid and (piece := _content(line)) is not None]
            if not pieces:
                return None
            whole += pieces[0]
            if len(pieces[0]) < STEP:
                break
        return bytes(whole)

    async def move(self, uid: int, folder: str) -> None:
        """Move an email. One that is gone meanwhile is no error."""
        if "MOVE" in self.capabilities:
            await self.command(f"UID MOVE {uid} {mailbox(folder)}")
            return
        await self.command(f"UID COPY {uid} {mailbox(folder)}")
        await self.command(f"UID STORE {uid} +FLAGS.SILENT (\\Deleted)")
        await self.command(f"UID EXPUNGE {uid}")

    @property
    def why_not_move(self) -> str | None:
        """Why single emails cannot be moved; None if they can."""
        if not self.capabilities.isdisjoint({"MOVE", "UIDPLUS"}):
            return None
        return "the server has neither MOVE nor UIDPLUS: to move one email, it would delete those that others marked"

    async def wait(self, seconds: float, stop: asyncio.Event) -> None:
        """Wait until something comes, for some seconds, or until `stop` is set. Without IDLE, for the whole time."""
        stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        try:
            if "IDLE" in self.capabilities:
                await self._idle(seconds, stopped)
            elif not self.news:
                await asyncio.wait({stopped}, timeout=seconds)
                await self.command("NOOP")
        finally:
            stopped.cancel()

    async def _idle(self, seconds: float, stopped: asyncio.Future[Any]) -> None:
        if self.news:
            return
        tag = await self._begin_idle()
        deadline = asyncio.get_running_loop().time() + seconds
        is_waiting = True
        while True:
            # A line is awaited as a task, because a wait that is cancelled half-way would lose what was read of it.
            coming: asyncio.Future[Any] = asyncio.ensure_future(self.line(None))
            try:
                if is_waiting and not self.news:
                    left = deadline - asyncio.get_running_loop().time()
                    await asyncio.wait({coming, stopped}, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
                if is_waiting and (self.news or not coming.done()):
                    await self.write(b"DONE\r\n")
                    is_waiting = False
                async with asyncio.timeout(REPLY_SECONDS):
                    if (await coming).text.startswith(tag):
                        return
            except TimeoutError:
                raise ImapError("the server does not end the wait") from None
            finally:
                coming.cancel()

    async def _begin_idle(self) -> bytes:
        """Return the tag of the command, once the server waits with us."""
        tag = await self.send("IDLE")
        while not (line := await self.line()).text.startswith(b"+"):
            if line.text.startswith(tag):
                result_of(line.text[len(tag) :])
                raise ImapError("the server ended the wait before it began")
        return tag

    async def close(self) -> None:
        """Log out and close the connection."""
        with contextlib.suppress(ImapError, OSError):
            self._writer.write(b"C0 LOGOUT\r\n")
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                await self._writer.wait_closed()


def _content(line: Line) -> bytes | None:
    """Return the part of an email in a FETCH response, which is a literal, or a short string in quotes."""
    if line.literals:
        return line.literals[0]
    quoted = _QUOTED.search(line.text)
    return re.sub(rb"\\(.)", rb"\1", quoted[1] or b"") if quoted is not None else None


def _uid(line: Line) -> int | None:
    found = _UID.search(_QUOTED.sub(b"", line.text))
    return int(found[1]) if found is not None else None
