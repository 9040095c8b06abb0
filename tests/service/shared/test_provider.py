"""Both APIs, and sessions, with tokens of an identity provider."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from services.conversations.app import create_app as create_conversations_app
from services.conversations.settings import ApiSettings as ConversationsSettings
from services.notifications.app import create_app as create_notifications_app
from services.notifications.settings import ApiSettings as NotificationsSettings
from shared.database.transactions import SessionFactory
from tests.helpers.identity_provider import ALGORITHMS, Provider, claims, private_key, signed
from tests.helpers.waiting import eventually
from tests.service.conftest import SECRET
from tests.service.helpers.callers import problem
from tests.service.helpers.connected import client_of, connect
from tests.service.helpers.provider_keys import Clock, caller, keys_of, token_with_kid, unavailable

UNAUTHENTICATED, UNAVAILABLE = (401, "unauthenticated"), (503, "unavailable")


@pytest.fixture
async def both(
    conversations: SessionFactory,
    notifications: SessionFactory,
    databases: dict[str, str],
    provider: Provider,
    clock: Clock,
) -> AsyncIterator[list[Callable[[str], Awaitable[httpx2.Response]]]]:
    """Functions that call the conversations and the notifications API, which have no secret, with a token."""
    settings: dict[str, Any] = {"auth_jwks_url": provider.url, "auth_secret": []}
    apps = [
        create_conversations_app(
            ConversationsSettings(conversations_database_url=databases["conversations"], **settings)
        ),
        create_notifications_app(
            NotificationsSettings(notifications_database_url=databases["notifications"], **settings)
        ),
    ]
    paths = ["/api/v1/unread", "/api/v1/notifications/unread"]
    async with AsyncExitStack() as stack:
        calls = []
        for app, path, sessions in zip(apps, paths, (conversations, notifications), strict=True):
            connect(app, sessions)
            app.state.keys = await stack.enter_async_context(keys_of(provider.url, clock))
            transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
            client = await stack.enter_async_context(
                httpx2.AsyncClient(transport=transport, base_url="http://chats.test")
            )
            calls.append(caller(client, path))
        yield calls


async def test_both_apis_accept_only_the_providers_own_signatures(both: Any, provider: Provider) -> None:
    for call in both:
        for algorithm in ALGORITHMS:
            assert (await call(token_with_kid(algorithm, algorithm))).status_code == 200
            assert problem(await call(token_with_kid(algorithm, algorithm, "another"))) == UNAUTHENTICATED
        for token in (
            signed(SECRET, "HS256"),
            signed("", "none"),
            token_with_kid("ES256", "RS256"),
            token_with_kid("RS256", "ES256"),
        ):
            assert problem(await call(token)) == UNAUTHENTICATED
    assert provider.request_count == 2
    assert all(head.startswith("GET /keys HTTP/1.1\r\n") for head in provider.request_heads)


async def test_both_apis_are_unavailable_until_keys_were_fetched(both: Any, provider: Provider, clock: Clock) -> None:
    provider.answer = unavailable
    for call in both:
        assert problem(await call(token_with_kid("RS256"))) == UNAVAILABLE
        assert problem(await call(signed(SECRET, "HS256"))) == UNAUTHENTICATED
        assert problem(await call("x.y.z")) == UNAUTHENTICATED
    assert provider.request_count == 2
    provider.answer = provider.publish
    clock.now += 9
    for call in both:
        assert problem(await call(token_with_kid("RS256"))) == UNAVAILABLE
    clock.now += 1
    for call in both:
        assert (await call(token_with_kid("RS256"))).status_code == 200
    assert provider.request_count == 4


async def test_keys_are_fetched_at_startup_before_the_first_request(
    databases: dict[str, str], provider: Provider
) -> None:
    app = create_notifications_app(
        NotificationsSettings(notifications_database_url=databases["notifications"], auth_jwks_url=provider.url)
    )
    async with app.router.lifespan_context(app):
        await eventually(lambda: provider.request_count)


async def test_with_secret_and_url_each_is_used_with_its_own_algorithm(
    databases: dict[str, str], conversations: SessionFactory, provider: Provider
) -> None:
    app = create_conversations_app(
        ConversationsSettings(
            conversations_database_url=databases["conversations"], auth_secret=[SECRET], auth_jwks_url=provider.url
        )
    )
    connect(app, conversations)
    async with client_of(app) as client:
        call = caller(client, "/api/v1/unread")
        assert (await call(signed(SECRET, "HS256"))).status_code == 200
        assert provider.request_count == 0
        assert (await call(token_with_kid("RS256"))).status_code == 200
        assert problem(await call(signed(SECRET, "HS256", {"kid": "RS256"}, sub=None))) == UNAUTHENTICATED
    await app.state.keys.close()


async def test_without_a_secret_no_session_begins_and_the_page_says_why(
    databases: dict[str, str], conversations: SessionFactory, provider: Provider
) -> None:
    app = create_conversations_app(
        ConversationsSettings(conversations_database_url=databases["conversations"], auth_jwks_url=provider.url)
    )
    connect(app, conversations)
    async with client_of(app) as client:
        answer = await client.post("/session", data={"token": token_with_kid("RS256")})
        assert answer.status_code == 503
        assert "CHATS_AUTH_SECRET" in answer.text
        assert "set-cookie" not in answer.headers
        client.cookies.set("chats", token_with_kid("RS256"))
        assert (await client.get("/dashboard/messages/")).status_code == 401
        assert problem(await client.get("/api/v1/unread")) == UNAUTHENTICATED
    await app.state.keys.close()


async def test_a_session_begins_with_a_fresh_token_of_the_provider(
    databases: dict[str, str], conversations: SessionFactory, provider: Provider
) -> None:
    app = create_conversations_app(
        ConversationsSettings(
            conversations_database_url=databases["conversations"], auth_secret=[SECRET], auth_jwks_url=provider.url
        )
    )
    connect(app, conversations)
    async with client_of(app) as client:
        old = signed(private_key("RS256"), "RS256", {"kid": "RS256"}, iat=claims()["iat"].timestamp() - 400)
        assert (await client.post("/session", data={"token": old})).status_code == 401
        assert (await client.post("/session", data={"token": token_with_kid("RS256")})).status_code == 303
        assert (await client.get("/dashboard/messages/")).status_code == 200
        assert (await client.get("/api/v1/unread")).status_code == 200
    await app.state.keys.close()
