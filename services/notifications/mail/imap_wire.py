"""The lines of IMAP (RFC 3501): commands and their responses, one after the other, on a connection."""

import asyncio
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Final

REPLY_SECONDS: Final = 60.0
MAX_LINE: Final = 8 * 2**20  # bytes of a line: the ids of a million emails
MAX_LITERAL: Final = 4 * 2**20
_LITERAL: Final = re.compile(rb"\{(\d{1,12})\}\r\n$")
_COUNT: Final = re.compile(rb"\* (\d+) (EXISTS|EXPUNGE)\b", re.IGNORECASE)


class ImapError(Exception):
    """The connection is lost, or the server says what it must not. Connect again."""


class ImapRefused(Exception):  # noqa: N818 - an answer, not an error
    """The server answered NO or BAD. The connection still works."""


class LoginRefused(Exception):  # noqa: N818 - as above
    """The server does not accept user and password, or wants TLS before."""


@dataclass(frozen=True, slots=True)
class Line:
    """A response: its text, and the literals in it in their order."""

    text: bytes
    literals: tuple[bytes, ...] = ()


class ImapWire:
    """A connection to a mail server. `news`: whether something came that no search has seen.

    Every line that the server sends is read in one place, so that no news is missed. Nothing that is sent is logged.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._tags = 0
        self._count = 0  # of emails in the folder
        self.capabilities: frozenset[str] = frozenset()
        self.news = True

    async def command(self, text: str, *, continued: str | None = None) -> list[Line]:
        """Send a command; return its responses, the last one without its tag. Raises `ImapRefused` for NO and BAD."""
        tag = await self.send(text)
        lines: list[Line] = []
        while True:
            line = await self.line()
            if line.text.startswith(b"+"):
                if continued is None:
                    raise ImapError("the server waits for more than was said")
                await self.write(f"{continued}\r\n".encode())
                continued = None
            elif line.text.startswith(tag):
                return [*lines, Line(result_of(line.text[len(tag) :]))]
            else:
                lines.append(line)

    async def send(self, text: str) -> bytes:
        """Send a command; return its tag."""
        self._tags += 1
        tag = f"C{self._tags} "
        await self.write(f"{tag}{text}\r\n".encode())
        return tag.encode()

    async def write(self, data: bytes) -> None:
        """Send bytes."""
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                self._writer.write(data)
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise ImapError(text_of(error)) from None

    async def line(self, seconds: float | None = REPLY_SECONDS) -> Line:
        """Read one response with its literals, and note whether it tells of a new email."""
        text, literals = b"", []
        try:
            async with asyncio.timeout(seconds):
                while True:
                    text += await self._reader.readuntil(b"\n")
                    literal = _LITERAL.search(text)
                    if literal is None:
                        break
                    if (size := int(literal[1])) > MAX_LITERAL or len(text) > MAX_LINE:
                        raise ImapError("the server sends more than was asked for")
                    literals.append(await self._reader.readexactly(size))
        except asyncio.IncompleteReadError:
            raise ImapError("the server closed the connection") from None
        except asyncio.LimitOverrunError:
            raise ImapError("the server sends a line that is too long") from None
        except (OSError, TimeoutError) as error:
            raise ImapError(text_of(error)) from None
        self._note_count(text)
        if text.upper().startswith(b"* BYE"):
            raise ImapError(shown(text[5:]))
        return Line(text.rstrip(b"\r\n"), tuple(literals))

    def _note_count(self, text: bytes) -> None:
        """Note whether there are more emails than before. Some servers tell their number again and again."""
        found = _COUNT.match(text)
        if found is None:
            return
        if found[2].upper() == b"EXPUNGE":
            self._count = max(self._count - 1, 0)
            return
        self.news = self.news or int(found[1]) > self._count
        self._count = int(found[1])


def result_of(text: bytes) -> bytes:
    """Return the text of a tagged response that is OK. Raises `ImapRefused` for another one."""
    status, _, rest = text.strip().partition(b" ")
    if status.upper() != b"OK":
        raise ImapRefused(shown(rest) or shown(status))
    return rest


def quote(text: str) -> str:
    """Return a text as IMAP quotes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def mailbox(name: str) -> str:
    """Return a folder's name as IMAP writes it: in quotes, other scripts in modified UTF-7 (RFC 3501, 5.1.3)."""
    pieces = re.findall(r"[\x20-\x7e]+|[^\x20-\x7e]+", name)
    encoded = [
        piece.replace("&", "&-")
        if piece.isascii() and piece.isprintable()
        else f"&{b64encode(piece.encode('utf-16-be')).decode().rstrip('=').replace('/', ',')}-"
        for piece in pieces
    ]
    return quote("".join(encoded))


def shown(text: bytes) -> str:
    """Return what a server says, short enough for a log."""
    return text.decode("utf-8", "replace").strip()[:200]


def text_of(error: Exception) -> str:
    """Return what went wrong with a connection."""
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    return str(error)[:200] or type(error).__name__
