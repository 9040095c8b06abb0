"""The keys of the tests' identity provider as the services fetch them, and tokens signed with them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from shared.auth.jwks import ProviderKeys
from shared.problems import Unauthenticated
from tests.helpers.identity_provider import private_key, respond, signed

MINUTE = 60.0  # seconds


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def keys_of(url: str, clock: Clock) -> AsyncIterator[ProviderKeys]:
    keys = ProviderKeys(url, clock)
    yield keys
    await keys.close()


def caller(client: httpx2.AsyncClient, path: str) -> Callable[[str], Awaitable[httpx2.Response]]:
    async def call(token: str) -> httpx2.Response:
        return await client.get(path, headers={"Authorization": f"Bearer {token}"})

    return call


def token_with_kid(kid: str | None, algorithm: str = "RS256", name: str = "", **headers: Any) -> str:
    """Sign a token with the key called `name`, with `kid` in its header."""
    return signed(private_key(algorithm, name), algorithm, {**headers, **({} if kid is None else {"kid": kid})})


async def accepts(keys: ProviderKeys, token: str) -> bool:
    try:
        return await keys.find(token) is not None
    except Unauthenticated:
        return False


async def unavailable(writer: asyncio.StreamWriter) -> None:
    await respond(writer, b"later", "503 Service Unavailable")


async def unresponsive(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()
