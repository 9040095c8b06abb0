"""`chats doctor` when something else answers at the addresses that it checks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deploy.doctor import event_feed, proxy, report
from deploy.doctor.findings import Area, Severity

CONNECTION = '{"client_address": "127.0.0.1", "scheme": "http", "host": "other.test", "instance": "a"}'


@asynccontextmanager
async def answering(body: str, status: str = "200 OK") -> AsyncIterator[str]:
    """Answer every request with this body, and close the connection at once."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture(autouse=True)
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATS_AUTH_SECRET", "a-secret-for-tests-of-32-bytes-or-more")
    monkeypatch.setenv("CHATS_NOTIFICATIONS_DATABASE_URL", "postgresql://chats@db.test/chats")
    monkeypatch.setenv("CHATS_CONVERSATIONS_DATABASE_URL", "postgresql://chats@db.test/chats")
    monkeypatch.setenv("CHATS_FEED_SECRET", "hidden")


@pytest.mark.parametrize("body", ["<html>", "[1]", "{}"])
async def test_a_page_of_another_server_is_not_the_api(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    async with answering(body) as origin:
        monkeypatch.setenv("CHATS_PUBLIC_URL", origin)
        monkeypatch.setenv("CHATS_CONVERSATIONS_URL", origin)
        monkeypatch.setenv("CHATS_NOTIFICATIONS_URL", origin)
        findings = [*await proxy.check(), *await event_feed.check()]
        assert {finding.severity for finding in findings} == {Severity.FAULT}
    texts = [finding.text for finding in findings]
    assert f"/readyz answers with status 200: {body}" in texts
    assert f"/api/v1/store/connection answers with something else: {body}" in texts
    assert texts.count(f"{origin} cannot be read: it answers with something else.") == 2


@pytest.mark.parametrize("status", ["302 Found", "403 Forbidden"])
async def test_a_private_path_that_the_proxy_refuses_is_private(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    async with answering("<html>", status) as origin:
        monkeypatch.setenv("CHATS_PUBLIC_URL", origin)
        texts = [finding.text for finding in await proxy.check()]
    assert not [text for text in texts if "from outside" in text]


async def test_a_proxy_may_close_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(CONNECTION) as origin:
        monkeypatch.setenv("CHATS_PUBLIC_URL", origin)
        texts = [finding.text for finding in await proxy.check()]
    assert "The API sees this machine's own address, 127.0.0.1." in texts


@pytest.mark.parametrize("token", ["hidden\nhidden", "hídden"])
async def test_a_token_that_cannot_be_sent_is_not_repeated(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("CHATS_DOCTOR_TOKEN", token)
    async with answering("") as origin:
        monkeypatch.setenv("CHATS_PUBLIC_URL", origin)
        *_, found = await proxy.check()
    assert (found.severity, "hidden" in found.text) == (Severity.FAULT, False)
    assert found.text.startswith("CHATS_DOCTOR_TOKEN contains line breaks")


def test_an_error_in_one_area_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> list[object]:
        raise RuntimeError("hidden")

    monkeypatch.setattr(report, "CHECKS", {**report.CHECKS, Area.FEED: fail})
    assert report.examine([Area.FEED, Area.SIGN_IN], as_json=False) == Severity.FAULT
    output = capsys.readouterr().out
    assert "The check failed: RuntimeError." in output
    assert "CHATS_AUTH_SECRET are accepted" in output
    assert "hidden" not in output
