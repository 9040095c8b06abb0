"""How often somebody may try to sign in from one address, and whose word about the address counts."""

from typing import Any

import httpx2
import pytest

from shared.database import Sessions
from tests.service.browser import HOST, Browser, store_token
from tests.service.limited import processes
from tests.service.store import problem
from tests.service.valkey import Valkey

ANNAS, BENS = "198.51.100.7", "203.0.113.9"


async def sign_in(client: httpx2.AsyncClient, address: str, token: str | None = None) -> httpx2.Response:
    """Try to sign in from an address, as the proxy tells it."""
    headers = {"Origin": HOST, "X-Forwarded-For": address}
    return await client.post("/session", data={"token": token or store_token()}, headers=headers)


async def statuses(clients: list[httpx2.AsyncClient], address: str, count: int, token: str | None = None) -> list[int]:
    return [(await sign_in(clients[turn % len(clients)], address, token)).status_code for turn in range(count)]


async def test_sign_ins_are_counted_by_address_for_all_processes_together(
    conversations: Sessions, valkey: Valkey
) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=4) as clients:
        assert await statuses(clients, ANNAS, 6) == [303] * 4 + [429] * 2
        assert await statuses(clients, BENS, 1) == [303]


async def test_a_refused_sign_in_is_a_page_that_says_so(conversations: Sessions, valkey: Valkey) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=1) as [client, _]:
        await sign_in(client, ANNAS)
        page = await sign_in(client, ANNAS)
        assert "That was too often. Try again in a minute." in page.text
        assert 1 <= int(page.headers["Retry-After"]) <= 60
        assert "set-cookie" not in page.headers


async def test_sign_ins_that_fail_are_refused_sooner_also_with_a_good_token_then(
    conversations: Sessions, valkey: Valkey
) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=12) as clients:
        assert await statuses(clients, ANNAS, 5, "guessed") == [401] * 3 + [429] * 2
        assert await statuses(clients, ANNAS, 1) == [429]
        assert await statuses(clients, BENS, 1) == [303]


async def test_zero_means_that_anybody_may_try_as_often_as_they_like(conversations: Sessions, valkey: Valkey) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=0) as clients:
        assert set(await statuses(clients, ANNAS, 40, "guessed")) == {401}


async def test_renewals_are_counted_for_themselves(conversations: Sessions, valkey: Valkey) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=2) as [client, _]:
        browser = Browser(client)
        client.headers["X-Forwarded-For"] = ANNAS
        await browser.sign_in("anna")
        answers = [await browser.call("POST", "/session/renew") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [204, 204, 429]
        assert problem(answers[2]) == (429, "rate-limited")
        assert (await browser.sign_in("anna")).status_code == 303


async def test_addresses_that_a_client_adds_in_front_of_its_own_do_not_count(
    conversations: Sessions, valkey: Valkey
) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=2) as [client, _]:
        forged = [f"192.0.2.{turn}, {ANNAS}" for turn in range(3)]
        assert [(await sign_in(client, addresses)).status_code for addresses in forged] == [303, 303, 429]


async def test_what_somebody_tells_who_is_no_trusted_proxy_does_not_count(
    conversations: Sessions, valkey: Valkey
) -> None:
    async with processes(conversations, valkey.url, peer=ANNAS, limit_sign_ins_per_minute=2) as [client, _]:
        forged = [f"192.0.2.{turn}" for turn in range(3)]
        assert [(await sign_in(client, address)).status_code for address in forged] == [303, 303, 429]


async def test_the_addresses_of_one_ipv6_network_are_one(conversations: Sessions, valkey: Valkey) -> None:
    async with processes(conversations, valkey.url, limit_sign_ins_per_minute=2) as [client, _]:
        own = [f"2001:db8:1:2::{turn:x}" for turn in range(1, 4)]
        assert [(await sign_in(client, address)).status_code for address in own] == [303, 303, 429]
        assert (await sign_in(client, "2001:db8:1:3::1")).status_code == 303


@pytest.mark.parametrize("hostile", ["", ",", "unknown", "a" * 3000, "1.2.3.4:99999", "[::1", "\u00e4"])
async def test_an_address_that_is_none_breaks_nothing(conversations: Sessions, valkey: Valkey, hostile: str) -> None:
    async with processes(conversations, valkey.url) as [client, _]:
        headers: Any = {"Origin": HOST, "X-Forwarded-For": hostile.encode()}
        answer = await client.post("/session", data={"token": store_token()}, headers=headers)
        assert answer.status_code == 303
