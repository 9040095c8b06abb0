"""Processes of the conversations service with rate limits, which share one database and one Redis."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2

from services.conversations.app import create_app
from services.conversations.rate_limits.failopen_redis import FailopenRedis
from services.conversations.rate_limits.policy import Limits
from services.conversations.settings import ApiSettings
from shared.database.transactions import SessionFactory
from shared.process.running import create_server
from tests.service.helpers.connected import HOST, connect

SECRET = "a secret for tests, of 32 bytes or more"
REDIS_TIMEOUT = 5.0  # seconds; long, so that a slow test machine does not disable the limits
PROXY = "10.0.0.1"
"""The address that the processes trust to report a client's address."""


@asynccontextmanager
async def processes(
    sessions: SessionFactory, redis_url: str | None, count: int = 2, *, peer: str = PROXY, **limits: Any
) -> AsyncIterator[list[httpx2.AsyncClient]]:
    """Yield an HTTP client for each of `count` processes with a shared Redis; `peer` is the connecting address."""
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            settings = ApiSettings(
                conversations_database_url="postgresql://not.used/",
                auth_secret=[SECRET],
                store_name="Test Store",
                redis_url=None,
                trusted_proxies=[PROXY],
                **limits,
            )
            app = create_app(settings)
            connect(app, sessions)
            redis = FailopenRedis(redis_url, REDIS_TIMEOUT) if redis_url else None
            if redis is not None:
                stack.push_async_callback(redis.client.aclose)
            app.state.limits = Limits(settings, redis)
            config = create_server(app, "127.0.0.1", 0, trusted_proxies=settings.trusted_proxies).config
            config.load()
            transport = httpx2.ASGITransport(app=config.loaded_app, raise_app_exceptions=False, client=(peer, 1))
            clients.append(await stack.enter_async_context(httpx2.AsyncClient(transport=transport, base_url=HOST)))
        yield clients
