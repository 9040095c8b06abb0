"""One attempt: where it may go, what it says of TLS, and how much it reads."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.local.ports import free_ports
from services.conversations.rules import WebhookError
from services.conversations.webhooks.sending import Outcome, Sender
from tests.helpers.authority import Authority, tls_front
from tests.helpers.webhook_receiver import Answer, webhook_receiver

LOCAL = frozenset({"hooks.test", "127.0.0.1"})


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names with addresses that a test chooses, and how often each was looked up is `names["looked up"]`."""
    names: dict[str, list[str]] = {"looked up": []}
    real = socket.getaddrinfo

    def look_up(host: str, port: int, **options: Any) -> Any:
        names["looked up"].append(host)
        return [found for address in names.get(host, [host]) for found in real(address, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


@asynccontextmanager
async def sending_to(private_hosts: frozenset[str] = LOCAL, seconds: float = 10) -> AsyncIterator[Sender]:
    sender = Sender(private_hosts, timeout=seconds)
    try:
        yield sender
    finally:
        await sender.close()


async def send(sender: Sender, url: str) -> Outcome:
    return await sender.send(url, {"Content-Type": "application/json"}, b"{}")


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["::ffff:127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["64:ff9b::7f00:1"], ["169.254.169.254"]],
)
async def test_a_public_name_that_leads_to_ourselves_gets_nothing(
    names: dict[str, list[str]], addresses: list[str]
) -> None:
    async with webhook_receiver() as receiver, sending_to() as sender:
        names["store.test"] = addresses
        outcome = await send(sender, f"http://store.test:{receiver.port}/")
        assert outcome.error is WebhookError.ADDRESS
        assert receiver.connections == 0


async def test_a_named_host_is_reached_at_the_address_that_was_checked_and_keeps_its_connection(
    names: dict[str, list[str]],
) -> None:
    async with webhook_receiver() as receiver, sending_to() as sender:
        names["hooks.test"] = ["127.0.0.1"]
        for _ in range(3):
            assert (await send(sender, f"http://hooks.test:{receiver.port}/a?b")).status == 204
        assert names["looked up"].count("hooks.test") == 1
        assert receiver.connections == 1
        assert receiver.received[0].headers["host"] == f"hooks.test:{receiver.port}"
        assert receiver.received[0].path == "/a?b"


async def test_a_redirect_is_no_success_and_not_followed(names: dict[str, list[str]]) -> None:
    assert names
    async with webhook_receiver() as other, webhook_receiver() as receiver, sending_to() as sender:
        receiver.answer = lambda _: Answer(307, headers={"Location": other.url})
        outcome = await send(sender, receiver.url)
        assert (outcome.status, outcome.error) == (307, WebhookError.STATUS)
        assert other.received == []


async def test_of_a_long_answer_four_kibibytes_are_read_and_of_an_endless_one_for_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with webhook_receiver() as receiver, sending_to(seconds=1) as sender:
        receiver.answer = lambda _: Answer(500, b"\xff" + b"a" * 5_000_000)
        outcome = await send(sender, receiver.url)
        assert outcome.response == "\N{REPLACEMENT CHARACTER}" + "a" * 4095
        receiver.answer = lambda _: Answer(delay=30)
        assert (await send(sender, receiver.url)).error is WebhookError.TIMEOUT
        receiver.answer = lambda _: Answer(hang_up=True)
        assert (await send(sender, receiver.url)).error is WebhookError.CONNECTION


async def test_what_does_not_exist_is_unreachable(names: dict[str, list[str]]) -> None:
    names["hooks.test"] = ["127.0.0.1"]
    names["nowhere.test"] = ["no such host.invalid"]
    [port] = free_ports([0])
    async with sending_to() as sender:
        assert (await send(sender, f"http://hooks.test:{port}/")).error is WebhookError.UNREACHABLE
        assert (await send(sender, "https://nowhere.test/")).error is WebhookError.UNREACHABLE


async def test_an_error_that_nobody_expects_is_an_outcome_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with sending_to() as sender:
        assert (await send(sender, "https://hooks.test/")).error is WebhookError.CONNECTION


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("86400", 3600), ("-1", 0), ("soon", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("1" * 400, 3600)],
)
async def test_retry_after_is_read_with_a_bound(value: str, seconds: float) -> None:
    answer = Answer(503, headers={"Retry-After": value})
    async with webhook_receiver(lambda _: answer) as receiver, sending_to() as sender:
        assert (await send(sender, receiver.url)).retry_after == seconds


async def test_the_certificate_must_be_valid_for_the_name(
    names: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names["elsewhere.test"] = names["hooks.test"] = ["127.0.0.1"]
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    async with (
        webhook_receiver() as receiver,
        tls_front(receiver.port, authority.context("elsewhere.test")) as port,
        sending_to(frozenset({"elsewhere.test", "hooks.test"})) as sender,
    ):
        assert (await send(sender, f"https://elsewhere.test:{port}/")).status == 204
        assert (await send(sender, f"https://hooks.test:{port}/")).error is WebhookError.TLS
        assert len(receiver.received) == 1
    monkeypatch.delenv("SSL_CERT_FILE")
    async with (
        webhook_receiver() as receiver,
        tls_front(receiver.port, authority.context("elsewhere.test")) as port,
        sending_to(frozenset({"elsewhere.test"})) as sender,
    ):
        assert (await send(sender, f"https://elsewhere.test:{port}/")).error is WebhookError.TLS
