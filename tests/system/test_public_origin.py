"""Which paths the proxy lets through, however they are spelled, and its own responses."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from http import HTTPStatus
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.local.ports import free_ports
from deploy.local.processes import end, spawn
from deploy.local.proxy import proxy
from services.conversations.app import create_app
from services.conversations.settings import ApiSettings
from shared.api.request_limits import RequestSizeMiddleware
from shared.http_headers import DEFAULTS
from shared.process.running import create_server
from tests.helpers.waiting import eventually

SECRET = "a secret for tests with 32 bytes or more"
HIDDEN = ("internal", "metrics")

SPELLINGS = [
    "/internal/events",
    "/internal/events/",
    "//internal/events",
    "/./internal/events",
    "/internal//events",
    "/internal%2Fevents",
    "/%69nternal/events",
    "/INTERNAL/events",
    "/internal/events?x=/api/v1/",
    "/internal/events#/api/v1/",
    "/internal/events;/api/v1/",
    "/internal/events%00/api/v1/x",
    "/internal/events%3F/api/v1/",
    "/internal/events/../../api/v1/x",
    "/internal/events/%2e%2e/%2e%2e/api/v1/x",
    "/internal/snapshot/users",
    "/internal/snapshot/..%2F..%2F..%2Fapi%2Fv1%2Fx",
    "/internal/snapshot/..%2f..%2fdocs",
    "/internal/snapshot/..%5c..%5cdocs",
    "/api/v1/../internal/events",
    "/api/v1/../../internal/events",
    "/api/v1/%2e%2e/%2e%2e/internal/events",
    "/api/v1/..%2f..%2finternal/events",
    "/api/v1//internal/events",
    "/api/v1/..;/..;/internal/events",
    "/api/v1/notifications/../../../internal/events",
    "/docs/../internal/events",
    "/docs/static/..%2f..%2finternal/events",
    "/chats-static/../internal/events",
    "/chats-static/%2e%2e/metrics",
    "/metrics",
    "/metrics/",
    "//metrics",
    "/metrics?/api/v1/",
    "/metrics%2F..%2Fdocs",
    "/%6detrics",
    "/healthz/../metrics",
    "http://chats.test/internal/events",
    "http://127.0.0.1/metrics",
    "internal/events",
    "*",
]


@pytest.fixture(scope="module")
async def ports(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[int, int, list[str]]]:
    """The ports of the proxy and of an API without a database, and the paths that this API serves."""
    data = tmp_path_factory.mktemp("proxy")
    ports = dict(zip(("proxy", "api", "notifications-api"), free_ports([0, 0, 0]), strict=True))
    settings = ApiSettings(
        conversations_database_url="postgresql://127.0.0.1:1/nowhere",
        auth_secret=[SecretStr(SECRET)],
        feed_secret=SecretStr(SECRET),
        redis_url=None,
    )
    app = create_app(settings)
    for middleware in app.user_middleware:
        if getattr(middleware.cls, "__name__", "") == RequestSizeMiddleware.__name__:
            middleware.kwargs["body_seconds"] = 1
    served: list[str] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"  # the API's background tasks would only wait for the database

        async def send_and_note(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] != HTTPStatus.NOT_FOUND:
                served.append(scope["path"])
            await send(message)

        await app(scope, receive, send_and_note)

    running = create_server(watched, "127.0.0.1", ports["api"], on_stop=app.state.hub.close)
    task = asyncio.create_task(running._serve())  # noqa: SLF001 - serve() takes over the test run's own signals
    await eventually(lambda: running.started)
    child = proxy(data, "127.0.0.1", ports, data / "log", "https://chats.test")
    process = await spawn(child)
    await eventually(child.ready, 30)
    yield ports["proxy"], ports["api"], served
    await end(process, child.stop_signal, child.grace)
    running.should_exit = True
    await task


async def ask(port: int, target: str, version: str = "1.1", *headers: str, body: str = "") -> tuple[int, str]:
    """Send the request target unchanged; return the status and the whole response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = (f"GET {target} HTTP/{version}", *(headers or ("Host: chats.test",)), "Connection: close")
    writer.write("\r\n".join((*lines, f"Authorization: Bearer {SECRET}", "", body)).encode())
    answer = (await asyncio.wait_for(reader.read(), 20)).decode()
    writer.close()
    return int(answer.split(" ", 2)[1]), answer


def reached(served: list[str]) -> list[str]:
    return [path for path in served if any(name in path for name in HIDDEN)]


async def test_the_api_serves_the_hidden_paths_without_the_proxy(ports: tuple[int, int, list[str]]) -> None:
    _, api, served = ports
    served.clear()
    assert (await ask(api, "/metrics"))[0] == 200
    assert (await ask(api, "/internal/events"))[0] == 503  # authorized, without a database
    assert reached(served) == ["/metrics", "/internal/events"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_no_spelling_of_a_path_reaches_the_feed_or_the_metrics(
    ports: tuple[int, int, list[str]], version: str
) -> None:
    port, _, served = ports
    served.clear()
    for target in SPELLINGS:
        status, answer = await ask(port, target, version)
        assert status >= HTTPStatus.BAD_REQUEST, (target, answer)
    assert reached(served) == []


async def test_no_header_reaches_the_feed_either(ports: tuple[int, int, list[str]]) -> None:
    port, api, served = ports
    served.clear()
    hidden = f"GET /internal/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n\r\n"
    for headers, body in (
        ((f"Host: 127.0.0.1:{api}",), ""),
        (("Host: chats.test/internal/events",), ""),
        (("Host: chats.test", "X-Original-URL: /internal/events", "X-Rewrite-URL: /internal/events"), ""),
        (("Host: chats.test", "X-Forwarded-Prefix: /internal", "X-Forwarded-Host: 127.0.0.1"), ""),
        (("Host: chats.test", "Content-Length: 4", "Transfer-Encoding: chunked"), f"0\r\n\r\n{hidden}"),
        (("Host: chats.test", "Transfer-Encoding: xchunked", f"Content-Length: {len(hidden)}"), hidden),
        (("Host: chats.test", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), hidden),
        (("Host: chats.test", f"Content-Length: {len(hidden)}"), hidden),
    ):
        for target in ("/internal/events", "/healthz"):
            await ask(port, target, "1.1", *headers, body=body)
    assert reached(served) == []


async def test_the_origin_redirects_to_the_pages(ports: tuple[int, int, list[str]]) -> None:
    port, _, _ = ports
    for target in ("/", "/?from=shop"):
        status, answer = await ask(port, target)
        assert status == HTTPStatus.SEE_OTHER
        assert "\r\nLocation: /dashboard/messages/\r\n" in answer.replace("location", "Location")
    assert (await ask(port, "/x"))[0] == HTTPStatus.NOT_FOUND


async def test_an_id_keeps_its_encoded_slashes_and_dots(ports: tuple[int, int, list[str]]) -> None:
    port, _, served = ports
    served.clear()
    await ask(port, "/api/v1/store/users/..%2F..%2F..%2F..%2Fx/sessions")
    assert served == ["/api/v1/store/users/..%2F..%2F..%2F..%2Fx/sessions"]


@pytest.mark.parametrize("path", ["/session", "/api/v1/conversations"])
async def test_a_slowly_sent_body_is_answered_before_it_ends(ports: tuple[int, int, list[str]], path: str) -> None:
    """The proxy passes the answer on once the body has ended, but holds nothing of the API until then."""
    proxy_port, api_port, served = ports
    for port, missing in ((proxy_port, b"x" * 999), (api_port, b"")):
        served.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        kind = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000"
        writer.write(f"POST {path} HTTP/1.1\r\nHost: chats.test\r\n{kind}\r\n\r\nx".encode())
        await eventually(lambda: served == [path])
        writer.write(missing)
        assert await asyncio.wait_for(reader.readuntil(b"\r\n"), 30) == b"HTTP/1.1 408 Request Timeout\r\n"
        writer.close()


async def test_responses_of_the_proxy_itself_have_the_security_headers(ports: tuple[int, int, list[str]]) -> None:
    port, _, _ = ports
    for target, expected in (("/elsewhere", 404), ("/api/v1/notifications", 503)):
        status, answer = await ask(port, target)
        assert status == expected
        for name, value in DEFAULTS.items() | {("Strict-Transport-Security", "max-age=31536000")}:
            assert answer.count(f"\r\n{name}: {value}\r\n") == 1
        assert "Server:" not in answer


async def test_people_get_pages_of_the_proxy_in_their_language(ports: tuple[int, int, list[str]]) -> None:
    port, _, _ = ports
    people = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
    for target, language, words in (
        ("/admin", "en-US,de;q=0.5", 'There is nothing at this address.</p>\n<a href="/">Go to your messages</a>'),
        ("/admin", "de-AT,de", 'Diese Seite gibt es nicht.</p>\n<a href="/">Zu Ihren Nachrichten</a>'),
        ("/notifications/other", "en", "There is nothing at this address."),
        ("/notifications/preferences", "en", 'Try again.</p>\n<a href="">Try again</a>'),
    ):
        _, answer = await ask(port, target, "1.1", "Host: chats.test", people, f"Accept-Language: {language}")
        head, _, page = answer.partition("\r\n\r\n")
        assert "\r\nContent-Type: text/html; charset=utf-8\r\n" in head
        assert words in page
        style = page.partition("<style>")[2].partition("</style>")[0]
        assert f"style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'" in head
