"""Limits of sign-ins by address, and whose information about the address is trusted."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from services.conversations.rate_limits.policy import SUSPICIOUS
from shared.database.transactions import SessionFactory
from tests.service.helpers.browser import Browser, store_token
from tests.service.helpers.callers import problem
from tests.service.helpers.connected import HOST
from tests.service.helpers.limited import processes
from tests.service.helpers.valkey_process import Valkey

ANNAS, BENS = "198.51.100.7", "203.0.113.9"


async def sign_in(client: httpx2.AsyncClient, address: str, token: str | None = None) -> httpx2.Response:
    """Sign in from an address that the proxy reports."""
    headers = {"Origin": HOST, "X-Forwarded-For": address}
    return await client.post("/session", data={"token": token or store_token()}, headers=headers)


async def statuses(clients: list[httpx2.AsyncClient], address: str, count: int, token: str | None = None) -> list[int]:
    return [(await sign_in(clients[turn % len(clients)], address, token)).status_code for turn in range(count)]


async def test_sign_ins_are_counted_by_user_across_processes(conversations: SessionFactory, valkey: Valkey) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=4) as clients:
        assert await statuses(clients, ANNAS, 6) == [303] * 4 + [429] * 2
        assert await statuses(clients, ANNAS, 1, store_token("ben")) == [303]


async def test_a_rejected_sign_in_is_a_page_with_the_reason(conversations: SessionFactory, valkey: Valkey) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=1) as [client, _]:
        await sign_in(client, ANNAS)
        page = await sign_in(client, ANNAS)
        assert "made too many requests. Try again in a minute." in page.text
        assert 1 <= int(page.headers["Retry-After"]) <= 60
        assert "set-cookie" not in page.headers


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: "guessed", "sent an invalid token"),
        (lambda: store_token(seconds=-60), "token has expired."),
        (lambda: store_token("shop", "store"), "token belongs to the store"),
    ],
)
async def test_invalid_tokens_have_a_lower_limit_that_does_not_affect_valid_ones(
    conversations: SessionFactory, valkey: Valkey, make: Callable[[], str], why: str
) -> None:
    refused = make()
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=12) as clients:
        answers = await statuses(clients, ANNAS, 5, refused)
        assert set(answers[:3]) <= {401, 403}
        assert answers[3:] == [429] * 2
        assert why in (await sign_in(clients[0], ANNAS, refused)).text
        assert await statuses(clients, ANNAS, 1) == [303]
        assert await statuses(clients, ANNAS, 1, refused) == [429]
        assert set(await statuses(clients, BENS, 1, refused)) <= {401, 403}


async def test_valid_tokens_from_a_foreign_page_do_not_block_the_user(
    conversations: SessionFactory, valkey: Valkey
) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=4) as [client, _]:
        foreign = {"Origin": "https://evil.test", "X-Forwarded-For": ANNAS}
        for _ in range(6):
            page = await client.post("/session", data={"token": store_token()}, headers=foreign)
        assert "made too many requests." in page.text
        assert "You came from https://evil.test" in page.text
        assert (await sign_in(client, ANNAS)).status_code == 303


async def test_any_number_of_users_can_sign_in_from_one_address(conversations: SessionFactory, valkey: Valkey) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=2) as [client, _]:
        for person in range(5):
            assert (await sign_in(client, ANNAS, store_token(f"person-{person}"))).status_code == 303


async def test_zero_means_no_limit_of_sign_ins(conversations: SessionFactory, valkey: Valkey) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=0) as clients:
        assert set(await statuses(clients, ANNAS, 40, "guessed")) == {401}


async def test_renewals_are_counted_by_user_and_separately(conversations: SessionFactory, valkey: Valkey) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=2) as [one, other]:
        anna, ben = Browser(one), Browser(other)
        for browser, user in ((anna, "anna"), (ben, "ben")):
            browser.client.headers["X-Forwarded-For"] = ANNAS
            await browser.sign_in(user)
        assert (
            await Browser(one).client.post("/session/renew", headers={"X-CSRF-Token": "guessed"})
        ).status_code == 403
        answers = [await anna.call("POST", "/session/renew") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [204, 204, 429]
        assert problem(answers[2]) == (429, "rate-limited")
        assert (await ben.call("POST", "/session/renew")).status_code == 204
        assert (await anna.sign_in("anna")).status_code == 303


async def test_failures_are_counted_by_the_address_that_a_trusted_proxy_reports(
    conversations: SessionFactory, valkey: Valkey
) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=8) as [client, _]:
        forged = [f"192.0.2.{turn}, {ANNAS}" for turn in range(3)]
        assert [(await sign_in(client, addresses, "guessed")).status_code for addresses in forged] == [401, 401, 429]


async def test_an_address_reported_by_an_untrusted_client_is_ignored(
    conversations: SessionFactory, valkey: Valkey
) -> None:
    async with processes(conversations, valkey.url, peer=ANNAS, limit_sign_ins_per_minute=8) as [client, _]:
        forged = [f"192.0.2.{turn}" for turn in range(3)]
        assert [(await sign_in(client, address, "guessed")).status_code for address in forged] == [401, 401, 429]


async def test_addresses_of_one_ipv6_network_are_counted_together(
    conversations: SessionFactory, valkey: Valkey
) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=8) as [client, _]:
        own = [f"2001:db8:1:2::{turn:x}" for turn in range(1, 4)]
        assert [(await sign_in(client, address, "guessed")).status_code for address in own] == [401, 401, 429]
        assert (await sign_in(client, "2001:db8:1:3::1", "guessed")).status_code == 401


WARNING = "all sign-ins come from one private address: if it is a proxy, add it to CHATS_TRUSTED_PROXIES"


@pytest.mark.parametrize(
    ("addresses", "warns"),
    [
        (["10.1.2.3"] * (SUSPICIOUS + 5), True),
        (["fd00::1"] * SUSPICIOUS, True),
        (["127.0.0.1"] * SUSPICIOUS, True),
        (["10.1.2.3"] * (SUSPICIOUS - 1), False),
        (["10.1.2.3", "10.1.2.4"] * SUSPICIOUS, False),
        (["9.9.9.9"] * SUSPICIOUS, False),
        ([ANNAS] * SUSPICIOUS, False),
        (["unknown"] * SUSPICIOUS, False),
    ],
)
async def test_a_warning_is_logged_once_when_all_sign_ins_come_from_one_private_address(
    conversations: SessionFactory, addresses: list[str], warns: bool
) -> None:
    with capture_logs() as logged:
        async with processes(conversations, None, 1) as [client]:
            for turn, address in enumerate(addresses):
                await sign_in(client, address, "guessed" if turn % 2 else None)
    warnings = [(line["log_level"], line["address"]) for line in logged if line["event"] == WARNING]
    assert warnings == ([("warning", addresses[0])] if warns else [])


@pytest.mark.parametrize("hostile", ["", ",", "unknown", "a" * 3000, "1.2.3.4:99999", "[::1", "\u00e4"])
async def test_an_invalid_address_causes_no_error(conversations: SessionFactory, valkey: Valkey, hostile: str) -> None:
    async with processes(conversations, valkey.url) as [client, _]:
        headers: Any = {"Origin": HOST, "X-Forwarded-For": hostile.encode()}
        answer = await client.post("/session", data={"token": store_token()}, headers=headers)
        assert answer.status_code == 303
