"""What only a real server shows: bytes on the wire, as careless or hostile clients send them."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from deploy.local.ports import free_ports
from services.conversations.app import create_app
from services.conversations.settings import ApiSettings
from shared.api.body_size import MAX_BODY_BYTES
from shared.auth.tokens import issue_session_token
from shared.database.transactions import SessionFactory
from shared.process.running import create_server
from shared.settings import Role, TokenSettings
from tests.helpers.waiting import eventually
from tests.service.conftest import SECRET, As
from tests.service.helpers.connected import connect


class Wire:
    """A connection for raw bytes to a running API."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def send(self, *parts: bytes) -> bytes:
        """Return everything until the server closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            async with asyncio.timeout(30):
                return await reader.read()
        finally:
            writer.close()


@pytest.fixture
async def wire(conversations: SessionFactory, databases: dict[str, str]) -> AsyncIterator[Wire]:
    """A running API."""
    (port,) = free_ports([0])
    settings = ApiSettings(conversations_database_url=databases["conversations"], auth_secret=[SECRET])
    app = create_app(settings)
    connect(app, conversations)
    running = create_server(app, "127.0.0.1", port)
    task = asyncio.create_task(running._serve())  # noqa: SLF001 - serve() replaces the test run's signal handlers
    await eventually(lambda: running.started)
    yield Wire(port)
    running.should_exit = True
    await task


def head(method: str, path: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: chats.test", "Connection: close"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode("latin-1")


async def test_an_oversized_body_is_rejected_over_http(wire: Wire, acting_as: As) -> None:
    headers = acting_as("anna") | {"Content-Type": "application/json"}
    path = "/api/v1/conversations"
    declared = await wire.send(head("POST", path, headers | {"Content-Length": str(6 * MAX_BODY_BYTES + 6)}))
    chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    chunked = await wire.send(
        head("POST", path, headers | {"Transfer-Encoding": "chunked"}), *[chunk] * 16, b"1\r\n{\r\n0\r\n\r\n"
    )
    for answer in (declared, chunked):
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"payload-too-large" in answer
        assert b"application/problem+json" in answer


async def test_encoded_characters_in_an_id_are_kept(wire: Wire, acting_as: As) -> None:
    body = b"{}"
    headers = acting_as("shop", "store") | {"Content-Type": "application/json", "Content-Length": "2"}
    answer = await wire.send(head("PUT", "/api/v1/store/users/a%2Fb%252F%3F%23", headers), body)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert answer.endswith(b'{"id":"a/b%2F?#"}')


@pytest.mark.parametrize(
    "request_line",
    ["GET /api/v1/unread HTTP/9.9", "GET", "\x00\x01\x02", "GET /\x80\xff HTTP/1.1", "BREW /api/v1/unread HTTP/1.1",
     "GET " + "/x" * 40_000 + " HTTP/1.1", "GET http://evil.test/api/v1/unread HTTP/1.1", "OPTIONS * HTTP/1.1"],
)  # fmt: skip
async def test_an_invalid_request_line_is_a_client_error(wire: Wire, request_line: str) -> None:
    answer = await wire.send(request_line.encode("latin-1") + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.split(b" ")[1][:1] == b"4"
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    "header",
    ["Content-Length: -1", "Content-Length: 1e3", "Content-Length: 5\r\nTransfer-Encoding: chunked",
     "Authorization: Bearer \xff", "Authorization\xff: x", "X: " + "y" * 100_000, "Content-Type: \x00", "No colon"],
)  # fmt: skip
async def test_an_invalid_header_is_a_client_error(wire: Wire, header: str) -> None:
    request = f"POST /api/v1/conversations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n\r\n{{}}"
    answer = await wire.send(request.encode("latin-1"))
    assert answer.split(b" ")[1][:1] == b"4"
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    ("path", "content_type", "start_of_body"),
    [
        ("/api/v1/conversations", "application/json", b'{"subj'),
        ("/dashboard/messages/new/", "application/x-www-form-urlencoded", b"subject=Hel"),
        ("/dashboard/messages/new/", "multipart/form-data; boundary=x", b"--x"),
        ("/session", "application/x-www-form-urlencoded", b"token="),
    ],
)
async def test_a_client_that_disconnects_during_its_body_causes_no_error(
    wire: Wire, acting_as: As, path: str, content_type: str, start_of_body: bytes
) -> None:
    cookie = issue_session_token(TokenSettings(auth_secret=[SECRET]), "anna", Role.CUSTOMER, uuid4(), "csrf")
    headers = {"Content-Type": content_type, "Content-Length": "100"}
    headers |= acting_as("anna") if path.startswith("/api") else {"Cookie": f"chats={cookie}"}
    with capture_logs() as lines:
        _, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(head("POST", path, headers) + start_of_body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: any(line["event"] == "request" for line in lines))
    requests = [(line["event"], line["log_level"], line.get("status")) for line in lines if "request" in line["event"]]
    assert requests == [("request", "info", 499)]
    answer = await wire.send(head("GET", "/api/v1/conversations", acting_as("anna")))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"items":[],"next_cursor":null}')
