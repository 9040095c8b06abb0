"""When the identity provider's keys are fetched, from an endpoint that may be slow, wrong, or down."""

import asyncio
import gzip
import json
import time
from typing import Any

import pytest

from shared.auth.jwks import SEARCH_AFTER, ProviderKeys
from shared.problems import Unavailable
from tests.helpers.identity_provider import Provider, private_key, public_jwk, respond, running_provider
from tests.helpers.waiting import eventually
from tests.service.helpers.provider_keys import (
    MINUTE,
    Clock,
    accepts,
    keys_of,
    token_with_kid,
    unavailable,
    unresponsive,
)


async def test_concurrent_requests_share_one_fetch(keys: ProviderKeys, provider: Provider) -> None:
    assert all(await asyncio.gather(*(accepts(keys, token_with_kid("RS256")) for _ in range(20))))
    assert provider.request_count == 1


@pytest.mark.parametrize("known", [False, True])
async def test_a_cancelled_request_does_not_cancel_the_shared_fetch(
    keys: ProviderKeys, provider: Provider, clock: Clock, known: bool
) -> None:
    go = asyncio.Event()
    if known:
        assert await accepts(keys, token_with_kid("RS256"))
        clock.now += 1
    provider.jwks.append(public_jwk(private_key("RS256", "new"), kid="new"))

    async def after_a_while(writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await provider.publish(writer)

    provider.answer = after_a_while
    first = asyncio.create_task(accepts(keys, token_with_kid("new", name="new")))
    await eventually(lambda: provider.request_count == 1 + known)
    first.cancel()
    await asyncio.wait({first})
    go.set()
    await eventually(lambda: accepts(keys, token_with_kid("new", name="new")), 2)
    assert provider.request_count == 1 + known


async def test_a_new_key_is_used_when_the_first_token_names_it(
    keys: ProviderKeys, provider: Provider, clock: Clock
) -> None:
    assert await accepts(keys, token_with_kid("RS256"))
    provider.jwks.append(public_jwk(private_key("RS256", "new"), kid="new"))
    clock.now += 1
    assert await accepts(keys, token_with_kid("new", name="new"))
    assert await accepts(keys, token_with_kid("RS256"))


async def test_unknown_keys_are_searched_every_ten_seconds_at_most(
    keys: ProviderKeys, provider: Provider, clock: Clock
) -> None:
    for _ in range(3):
        assert not await accepts(keys, token_with_kid("made up"))
    assert provider.request_count == 1  # the keys had just been fetched
    clock.now += 1
    for number in range(50):
        assert not await accepts(keys, token_with_kid(f"made up {number}"))
    assert provider.request_count == 2
    clock.now += SEARCH_AFTER - 1
    assert not await accepts(keys, token_with_kid("made up"))
    assert provider.request_count == 2
    clock.now += 1
    await asyncio.gather(*(accepts(keys, token_with_kid(f"made up {number}")) for number in range(20)))
    assert provider.request_count == 3
    provider.answer = unavailable
    clock.now += MINUTE
    for _ in range(3):
        assert not await accepts(keys, token_with_kid("made up"))
    assert provider.request_count == 4
    assert await accepts(keys, token_with_kid("RS256"))


async def test_keys_are_refreshed_in_the_background(keys: ProviderKeys, provider: Provider, clock: Clock) -> None:
    assert await accepts(keys, token_with_kid("RS256"))
    provider.answer = unresponsive
    clock.now += 5 * MINUTE - 1
    assert await accepts(keys, token_with_kid("RS256"))
    assert provider.request_count == 1
    clock.now += 1
    async with asyncio.timeout(2.5):
        assert await accepts(keys, token_with_kid("RS256"))
    await eventually(lambda: provider.request_count == 2)


async def test_a_withdrawn_key_is_accepted_for_ten_minutes_at_most(
    keys: ProviderKeys, provider: Provider, clock: Clock
) -> None:
    assert await accepts(keys, token_with_kid("RS256"))
    del provider.jwks[0]
    clock.now += 10 * MINUTE
    assert not await accepts(keys, token_with_kid("RS256"))
    assert await accepts(keys, token_with_kid("ES256", "ES256"))
    assert provider.request_count == 2


async def test_a_provider_may_withdraw_all_its_keys(keys: ProviderKeys, provider: Provider, clock: Clock) -> None:
    assert await accepts(keys, token_with_kid("RS256"))
    provider.jwks = []
    clock.now += 10 * MINUTE
    assert not await accepts(keys, token_with_kid("RS256"))
    provider.jwks = [public_jwk(private_key("RS256"), kid="RS256")]
    clock.now += MINUTE
    assert await accepts(keys, token_with_kid("RS256"))


async def garbage(writer: asyncio.StreamWriter) -> None:
    await respond(writer, b"<html>Sign in</html>")


async def no_object(writer: asyncio.StreamWriter) -> None:
    await respond(writer, b'["keys"]')


async def no_list(writer: asyncio.StreamWriter) -> None:
    await respond(writer, b'{"keys": {"kty": "RSA"}}')


async def deep(writer: asyncio.StreamWriter) -> None:
    await respond(writer, b"[" * 200_000)


async def no_text(writer: asyncio.StreamWriter) -> None:
    await respond(writer, b'{"keys": "\xff"}')


async def no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x01\x02\x00")


async def cut_off(writer: asyncio.StreamWriter) -> None:
    await respond(writer, b'{"keys": [', headers={"Content-Length": "1000"})


async def too_many(writer: asyncio.StreamWriter) -> None:
    await respond(writer, json.dumps({"keys": [{}] * 101}).encode())


async def endless(writer: asyncio.StreamWriter) -> None:
    await respond(writer, b'{"keys": [')
    while True:
        writer.write(b" " * 65536)
        await writer.drain()


async def packed(writer: asyncio.StreamWriter) -> None:
    await respond(writer, gzip.compress(b'{"keys": []}'), headers={"Content-Encoding": "gzip"})


async def gone(writer: asyncio.StreamWriter) -> None:
    await respond(writer, b'{"keys": []}', "404 Not Found")


@pytest.mark.parametrize(
    "answer",
    [unavailable, garbage, no_object, no_list, deep, no_text, no_http, cut_off, too_many, endless, packed, gone],
)
async def test_an_invalid_response_keeps_the_last_keys(
    keys: ProviderKeys, provider: Provider, clock: Clock, answer: Any
) -> None:
    assert await accepts(keys, token_with_kid("RS256"))
    provider.answer = answer
    for hours in range(3):
        clock.now += 60 * MINUTE
        assert await accepts(keys, token_with_kid("RS256"))
        assert provider.request_count == 2 + hours
    provider.jwks = [public_jwk(private_key("RS256", "new"), kid="new")]
    provider.answer = provider.publish
    clock.now += 60 * MINUTE
    assert await accepts(keys, token_with_kid("new", name="new"))
    assert not await accepts(keys, token_with_kid("RS256"))


async def test_a_redirect_is_not_followed(provider: Provider, clock: Clock) -> None:
    async def elsewhere(writer: asyncio.StreamWriter) -> None:
        await respond(writer, b"", "302 Found", {"Location": provider.url})

    async with running_provider() as moved, keys_of(moved.url, clock) as keys:
        moved.answer = elsewhere
        with pytest.raises(Unavailable):
            await keys.find(token_with_kid("RS256"))
        assert (moved.request_count, provider.request_count) == (1, 0)


async def test_a_fetch_takes_three_seconds_at_most(clock: Clock) -> None:
    async def dripping(writer: asyncio.StreamWriter) -> None:
        await respond(writer, b'{"keys": [')
        while True:
            await drip(writer)

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.1)

    async with running_provider() as first, running_provider() as second:
        first.answer, second.answer = unresponsive, dripping
        async with keys_of(first.url, clock) as unresponsive_keys, keys_of(second.url, clock) as dripping_keys:
            began = time.monotonic()
            found = await asyncio.gather(
                *(keys.find(token_with_kid("RS256")) for keys in (unresponsive_keys, dripping_keys)),
                return_exceptions=True,
            )
            assert all(isinstance(error, Unavailable) for error in found)
            assert (
                2.5 < time.monotonic() - began < 20
            )  # a fetch without a timeout would never end; machines may be slow


async def test_requests_do_not_wait_for_a_provider_that_is_known_to_be_down(
    keys: ProviderKeys, provider: Provider, clock: Clock
) -> None:
    assert await accepts(keys, token_with_kid("RS256"))
    provider.answer = unavailable
    clock.now += 10 * MINUTE
    assert await accepts(keys, token_with_kid("RS256"))
    provider.answer = unresponsive
    clock.now += 10
    async with asyncio.timeout(2.5):
        assert await accepts(keys, token_with_kid("RS256"))
    await eventually(lambda: provider.request_count == 3)


async def test_a_provider_that_is_down_is_requested_every_ten_seconds_at_most(clock: Clock) -> None:
    async with running_provider() as provider, keys_of(provider.url, clock) as keys:
        provider.answer = unavailable
        for _ in range(3):
            for _ in range(5):
                with pytest.raises(Unavailable):
                    await keys.find(token_with_kid("RS256"))
            clock.now += 10
        assert provider.request_count == 3
