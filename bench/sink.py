"""A mail server that accepts everything and keeps nothing, too cheap to limit a sender: `python -m bench.sink`.

It writes a line for each accepted email: the time, and the marks in its text, which `mark` makes.
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from deploy.local.ports import free_ports
from deploy.local.processes import Child, end, spawn

_MARK = re.compile(rb"mark([0-9]+)x")
_REPLIES = {
    b"EHLO": b"250-sink\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
    b"DATA": b"354 end with a dot\r\n",
    b"QUIT": b"221 bye\r\n",
}
END = b"\r\n.\r\n"


def mark(number: int) -> str:
    """Return a word for a message's body that identifies its email in the sink's log."""
    return f"mark{number}x"


@dataclass(frozen=True)
class AcceptedEmail:
    """An email that the sink accepted: the time by the machine's clock, and the distinct marks in it."""

    at: float
    marks: frozenset[int]


class Sink:
    """A running sink, and the emails that it has accepted."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.url = f"smtp://127.0.0.1:{port}"
        self._log = log

    def emails(self) -> list[AcceptedEmail]:
        """Return all emails so far."""
        lines = (line.split() for line in self._log.read_text().splitlines())
        return [AcceptedEmail(float(at), frozenset(map(int, marks))) for at, *marks in lines]

    def count(self) -> int:
        """Return the number of emails so far."""
        return self._log.read_bytes().count(b"\n")


@contextlib.asynccontextmanager
async def running_sink(directory: Path) -> AsyncIterator[Sink]:
    """Run a sink in a separate process."""
    log = directory / "sink.taken"
    log.touch()
    async with running_module("bench.sink", "--log", str(log), "--port", log=directory / "sink.log") as (port, _):
        yield Sink(port, log)


@contextlib.asynccontextmanager
async def running_module(*words: str, log: Path) -> AsyncIterator[tuple[int, int]]:
    """Run a module as a server on a free port, the last of its arguments; yield the port and the process's id."""
    [port] = free_ports([0])

    async def ready() -> bool:
        return True

    command = [sys.executable, "-m", *words, str(port)]
    process = await spawn(Child(name=words[0], command=command, log=log, ready=ready))
    try:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.05)
        yield port, process.pid
    finally:
        await end(process, signal.SIGKILL, 5)


class _Dialogue(asyncio.Protocol):
    def __init__(self, log: int) -> None:
        self._log = log
        self._received = b""
        self._in_data = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._take_email() if self._in_data else self._take_command():
            pass

    def _take_email(self) -> bool:
        end = self._received.find(END)
        if end < 0:
            return False
        content, self._received, self._in_data = self._received[:end], self._received[end + len(END) :], False
        marks = b" ".join(set(_MARK.findall(content)))
        self._transport.write(b"250 accepted\r\n")
        os.write(self._log, b"%.6f %s\n" % (time.time(), marks))
        return True

    def _take_command(self) -> bool:
        line, newline, rest = self._received.partition(b"\r\n")
        if not newline:
            return False
        self._received, verb = rest, line[:4].upper()
        self._transport.write(_REPLIES.get(verb, b"250 ok\r\n"))
        self._in_data = verb == b"DATA"
        if verb == b"QUIT":
            self._transport.close()
        return True


async def _serve(port: int, log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    server = await asyncio.get_running_loop().create_server(lambda: _Dialogue(descriptor), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Accept emails until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, arguments.log))


if __name__ == "__main__":
    main()
