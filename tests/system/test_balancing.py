"""The proxy in front of several copies of a service behind one name, which the test's name server resolves."""

import asyncio
import re
import struct
from asyncio import DatagramProtocol, DatagramTransport, StreamReader, StreamWriter
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from socket import inet_aton
from typing import Any

import httpx2
import pytest

from deploy.listen_check import listen_error
from deploy.local.ports import free_ports
from deploy.local.processes import end, spawn
from deploy.local.proxy import CADDYFILE, proxy
from tests.helpers.waiting import eventually

NAME = "api.test"
LOOPBACK = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
PATH = "/api/v1/conversations"
HEAD = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")

pytestmark = pytest.mark.skipif(
    listen_error(LOOPBACK[0], 0) is not None, reason="this machine has one loopback address"
)


class NameServer(DatagramProtocol):
    """Resolves one name to `addresses`, in this order."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self._transport: DatagramTransport = transport

    def datagram_received(self, data: bytes, client: tuple[str, int]) -> None:
        question = data[12 : data.index(b"\0", 12) + 5]
        is_for_a = question.endswith(b"\0\1\0\1") and question.startswith(b"\3api\4test\0")
        records = [b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + inet_aton(address) for address in self.addresses]
        found = records if is_for_a else []
        head = data[:2] + struct.pack("!HHHHH", 0x8180, 1, len(found), 0, 0)
        self._transport.sendto(head + question + b"".join(found), client)


@dataclass
class Copy:
    """A service that responds with its own address, and records the client addresses that it gets."""

    address: str
    port: int
    request_count: int = 0
    clients: list[str] = field(default_factory=list)
    breaks_off: bool = False
    server: asyncio.Server | None = None
    connections: set[StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, self.address, self.port)

    async def stop(self) -> None:
        """Refuse new connections, and close the open ones."""
        if self.server is not None:
            self.server.close()
            for connection in self.connections:
                connection.close()
            await self.server.wait_closed()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connections.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = HEAD.search(head)
                await reader.readexactly(int(length[1]) if length else 0)
                self.request_count += 1
                self.clients += [value.decode() for value in re.findall(rb"(?i)\r\nx-forwarded-for: *([^\r]*)", head)]
                if self.breaks_off:
                    return
                body = self.address.encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@dataclass
class Site:
    client: httpx2.AsyncClient
    names: NameServer
    copies: list[Copy]

    async def ask(self, count: int, method: str = "POST") -> Counter[str]:
        """Send requests one after the other; count the responses by copy, or by status for failed ones."""
        body = None if method == "GET" else b"hello"
        answers = [await self.client.request(method, PATH, content=body) for _ in range(count)]
        return Counter(answer.text if answer.status_code == 200 else str(answer.status_code) for answer in answers)


@asynccontextmanager
async def running_site(directory: Path, trusted_proxies: str = "") -> AsyncIterator[Site]:
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    resolver = transport.get_extra_info("sockname")[1]
    ports = dict(zip(("proxy", "api", "notifications-api"), free_ports([0, 0, 0]), strict=True))
    copies = [Copy(address, ports["api"]) for address in LOOPBACK]
    edited = directory / "Caddyfile"
    edited.write_text(CADDYFILE.read_text().replace("refresh 1s\n", f"refresh 1s\nresolvers 127.0.0.1:{resolver}\n"))
    child = proxy(directory, "127.0.0.1", ports, directory / "log", trusted_proxies=trusted_proxies)
    child = replace(
        child,
        command=[edited if part == CADDYFILE else part for part in child.command],
        environment={**child.environment, "CHATS_API_UPSTREAM": f"{NAME}:{ports['api']}"},
    )
    process = await spawn(child)
    try:
        await eventually(child.ready)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{ports['proxy']}", timeout=30) as client:
            yield Site(client, names, copies)
    finally:
        await end(process, child.stop_signal, child.grace)
        transport.close()
        for copy in copies:
            await copy.stop()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(tmp_path) as site:
        for copy in site.copies[:2]:
            await copy.start()
        site.names.addresses = [copy.address for copy in site.copies[:2]]
        yield site


async def test_every_address_of_a_name_gets_its_share(site: Site) -> None:
    assert await site.ask(20) == {"127.0.0.2": 10, "127.0.0.3": 10}


async def test_copies_come_and_go_without_failed_requests(site: Site) -> None:
    first, _, third = site.copies
    await site.ask(4)
    await first.stop()
    assert await site.ask(10) == {"127.0.0.3": 10}  # although the name still has the first address
    await third.start()
    site.names.addresses = ["127.0.0.3", "127.0.0.4"]

    async def is_found() -> bool:
        answers = await site.ask(2)
        assert answers.keys() <= {"127.0.0.3", "127.0.0.4"}
        return answers["127.0.0.4"] > 0

    await eventually(is_found)


async def test_a_request_that_a_copy_has_received_is_repeated_only_if_it_is_a_get(site: Site) -> None:
    first, second, _ = site.copies
    first.breaks_off = True
    assert await site.ask(2) == {"503": 1, "127.0.0.3": 1}
    assert (first.request_count, second.request_count) == (1, 1)
    assert await site.ask(4, "GET") == {"127.0.0.3": 4}


async def test_a_connection_survives_requests_that_no_copy_has_read(site: Site) -> None:
    site.names.addresses = [site.copies[2].address]  # which is not there
    await eventually(lambda: _unless_ok(site))
    reader, writer = await asyncio.open_connection("127.0.0.1", site.client.base_url.port)
    for _ in range(2):
        writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" % PATH.encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        assert head.startswith(b"HTTP/1.1 503 ")
        length = HEAD.search(head)
        assert length is not None
        await reader.readexactly(int(length[1]))
    writer.close()


async def test_an_aborted_upload_does_not_disable_a_copy(site: Site) -> None:
    for _ in range(6):
        _, writer = await asyncio.open_connection("127.0.0.1", site.client.base_url.port)
        writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nhello" % PATH.encode())
        await writer.drain()
        writer.close()
    answers = await site.ask(20)  # the uploads may still be in progress
    assert answers.keys() == {"127.0.0.2", "127.0.0.3"}
    assert min(answers.values()) > 5


async def test_a_name_without_addresses_is_unavailable_until_it_has_some(site: Site) -> None:
    site.names.addresses = []
    answer = await eventually(lambda: _unless_ok(site))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["code"] == "unavailable"
    site.names.addresses = ["127.0.0.3"]
    assert await eventually(lambda: site.ask(1)) == {"127.0.0.3": 1}


async def _unless_ok(site: Site) -> httpx2.Response | None:
    answer = await site.client.get(PATH)
    return None if answer.status_code == 200 else answer


@pytest.mark.parametrize(
    ("trusted", "header", "client"),
    [
        ("", "198.51.100.7", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "192.0.2.1, 198.51.100.7", "198.51.100.7"),
        ("127.0.0.1,10.0.0.0/8", "198.51.100.7, 10.2.3.4", "198.51.100.7"),
        ("127.0.0.1, 10.0.0.0/8", "2001:db8::7, 10.2.3.4", "2001:db8::7"),
        ("203.0.113.0/24", "198.51.100.7", "127.0.0.1"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
    ],
)
async def test_the_clients_address_is_the_last_one_that_is_no_trusted_proxy(
    tmp_path: Path, trusted: str, header: str, client: str
) -> None:
    async with running_site(tmp_path, trusted) as site:
        await site.copies[0].start()
        site.names.addresses = [site.copies[0].address]
        await site.client.get(PATH, headers={"X-Forwarded-For": header})
        assert site.copies[0].clients == [client]
