"""A real SMTP server on loopback that follows a script and keeps the emails it accepts.

In a test: `async with smtp_server(rcpt="450 4.2.0 later") as server`, then `server.script` and `server.emails`.
As a process: `python -m tests.helpers.smtp_server --port 2525 --mailbox DIR`. It writes each email to `DIR/<n>.eml`
and its envelope to `DIR/<n>.json`. The script is read from `DIR/script.json` before every answer.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DROP = "drop"
"""Close the connection instead of answering."""
STALL = "stall"
"""Never answer; keep the connection open until the test ends it."""
KEEP_AND_DROP = "keep-and-drop"
"""At `end`: accept the email, then close the connection without answering."""
KEEP_AND_STALL = "keep-and-stall"
"""At `end`: accept the email, and never answer."""

EXTENSIONS = ("8BITMIME", "SMTPUTF8", "SIZE 10485760")
DEFAULTS = {
    "banner": "220 mail.example ESMTP",
    "ehlo": "250 mail.example",
    "starttls": "220 go ahead",
    "auth": "235 2.7.0 welcome",
    "mail": "250 2.1.0 ok",
    "rcpt": "250 2.1.5 ok",
    "data": "354 end with a dot",
    "content": "",  # DROP or STALL: after the first byte of the email
    "end": "250 2.0.0 taken",
    "rset": "250 2.0.0 ok",
    "noop": "250 2.0.0 ok",
    "quit": "221 2.0.0 bye",
}

Script = dict[str, str | list[str]]


class _HangUpError(Exception):
    """The connection is over."""


@dataclass(frozen=True)
class ReceivedEmail:
    sender: str
    recipients: tuple[str, ...]
    content: bytes
    user: str | None = None


@dataclass
class SmtpServer:
    """The server's script, and what it received.

    `script` maps a phase (see DEFAULTS) to an answer for every time, or to a list of answers that are used once each,
    then the default. An answer is a reply line or one of the constants above. `rcpt` and `end` may be followed by an
    address, as in `rcpt anna@customer.test`, to apply to that recipient only.
    """

    script: Script = field(default_factory=dict)
    extensions: Sequence[str] = EXTENSIONS
    tls: ssl.SSLContext | None = None
    mailbox: Path | None = None
    delays: dict[str, float] = field(default_factory=dict)  # seconds before every answer of a phase
    emails: list[ReceivedEmail] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    max_connections: int | None = None  # at the same time; further connections get 421 at the banner
    refused_connections: int = 0
    port: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, phase: str, recipient: str = "") -> str:
        """Return the script's next answer for `phase`."""
        if self.mailbox is not None and (self.mailbox / "script.json").exists():
            self.script = json.loads((self.mailbox / "script.json").read_text())
        scripted = self.script.get(f"{phase} {recipient}", self.script.get(phase, DEFAULTS[phase]))
        if isinstance(scripted, str):
            return scripted
        return scripted.pop(0) if scripted else DEFAULTS[phase]

    def keep(self, email: ReceivedEmail) -> None:
        self.emails.append(email)
        if self.mailbox is not None:
            stem = self.mailbox / f"{len(self.emails):06}"
            stem.with_suffix(".json").write_text(json.dumps({"sender": email.sender, "recipients": email.recipients}))
            # The .eml is written last and appears whole, so a reader that sees it can read both files.
            stem.with_suffix(".part").write_bytes(email.content)
            stem.with_suffix(".part").rename(stem.with_suffix(".eml"))

    async def hang_up(self) -> None:
        """Close every connection, stalled ones included, as a server does with idle ones."""
        self._hung_up.set()
        self._hung_up = asyncio.Event()
        for writer in list(self._open):
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def stall(self) -> None:
        """Stop reading until the test hangs up."""
        await self._hung_up.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            await _Dialogue(self, reader, writer).run()
        except (_HangUpError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class _Dialogue:
    """One connection."""

    def __init__(self, server: SmtpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        self.sender, self.recipients, self.user = "", [], None  # type: str, list[str], str | None

    async def run(self) -> None:
        limit = self.server.max_connections
        if limit is not None and len(self.server._open) > limit:  # noqa: SLF001 - its own
            self.server.refused_connections += 1
            await self.reply("421 4.7.0 too many connections")
        await self.say("banner")
        while line := (await self.reader.readline()).decode("utf-8", "replace"):
            self.server.commands.append(line.rstrip("\r\n"))
            verb, _, argument = self.server.commands[-1].partition(" ")
            await self.obey(verb.lower(), argument)

    async def obey(self, phase: str, argument: str) -> None:
        if phase == "ehlo":
            await self.greet()
        elif phase not in DEFAULTS:
            await self.reply("502 5.5.1 what?")
        elif (await self.say(phase, _path(argument))).startswith(("2", "3")):
            await self.follow(phase, argument)

    async def follow(self, phase: str, argument: str) -> None:
        """Carry out a command that was answered positively."""
        match phase:
            case "starttls":
                assert self.server.tls is not None
                await self.writer.start_tls(self.server.tls)
            case "auth":  # PLAIN: an empty identity, the user and the password, separated by NUL
                encoded = argument.rpartition(" ")[2]
                self.user = base64.b64decode(encoded).split(b"\0")[1].decode()
            case "mail":
                self.sender, self.recipients = _path(argument), []
            case "rcpt":
                self.recipients.append(_path(argument))
            case "data":
                await self.receive()
            case "quit":
                raise _HangUpError

    async def greet(self) -> None:
        answer = self.server.answer("ehlo")
        if not answer.startswith("250"):
            await self.act(answer)
            return
        lines = [answer[4:], *self.server.extensions]
        await self.reply("\r\n".join(f"250-{line}" for line in lines[:-1]) + f"\r\n250 {lines[-1]}")

    async def receive(self) -> None:
        if content := self.server.answer("content"):
            await self.reader.readexactly(1)
            await self.act(content)
        lines = []
        while (line := await self.reader.readuntil(b"\r\n")) != b".\r\n":
            lines.append(line.removeprefix(b"."))
        await asyncio.sleep(self.server.delays.get("end", 0))
        answer = self.server.answer("end", self.recipients[-1])
        if answer.startswith("2") or answer in {KEEP_AND_DROP, KEEP_AND_STALL}:
            self.server.keep(ReceivedEmail(self.sender, tuple(self.recipients), b"".join(lines), self.user))
        await self.act(answer.removeprefix("keep-and-"))

    async def say(self, phase: str, recipient: str = "") -> str:
        await asyncio.sleep(self.server.delays.get(phase, 0))
        answer = self.server.answer(phase, recipient)
        await self.act(answer)
        return answer

    async def act(self, answer: str) -> None:
        if answer == DROP:
            raise _HangUpError
        if answer == STALL:
            await self.server.stall()
            raise _HangUpError
        await self.reply(answer)

    async def reply(self, text: str) -> None:
        self.writer.write(text.encode() + b"\r\n")
        await self.writer.drain()
        if text.startswith("421"):
            raise _HangUpError


def _path(argument: str) -> str:
    return argument.partition("<")[2].partition(">")[0]


@contextlib.asynccontextmanager
async def smtp_server(
    *,
    extensions: Sequence[str] = EXTENSIONS,
    tls: ssl.SSLContext | None = None,
    implicit_tls: bool = False,
    port: int = 0,
    mailbox: Path | None = None,
    **script: str | list[str],
) -> AsyncIterator[SmtpServer]:
    """Run the server on loopback, by default on a free port; `SmtpServer` explains the script."""
    server = SmtpServer(script=dict(script), extensions=extensions, tls=tls, mailbox=mailbox)
    async with serving(server, port=port, tls=tls if implicit_tls else None):
        yield server


@contextlib.asynccontextmanager
async def serving(server: SmtpServer, *, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Listen on loopback while the context is open; with `tls`, TLS starts at the first byte."""
    listener = await asyncio.start_server(server.serve, "127.0.0.1", port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        listener.close()
        await server.hang_up()
        await listener.wait_closed()


async def _run(port: int, mailbox: Path) -> None:
    async with smtp_server(port=port, mailbox=mailbox) as server:
        print(f"listening on 127.0.0.1:{server.port}", flush=True)  # noqa: T201 - read by the parent process
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A scriptable SMTP server that keeps emails in a directory.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--mailbox", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.mailbox.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(arguments.port, arguments.mailbox))


if __name__ == "__main__":
    main()
