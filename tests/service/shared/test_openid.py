"""Tokens of a third-party OpenID Connect provider, obtained by the flow of a store's login."""

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
import pytest

from deploy.local.ports import free_ports
from deploy.local.processes import Child, end, spawn
from deploy.local.readiness import answers_ok
from services.conversations.app import create_app as create_conversations_app
from services.conversations.settings import ApiSettings as ConversationsSettings
from services.notifications.app import create_app as create_notifications_app
from services.notifications.settings import ApiSettings as NotificationsSettings
from shared.database.transactions import SessionFactory
from tests.helpers.waiting import eventually
from tests.service.conftest import SECRET
from tests.service.helpers.callers import problem
from tests.service.helpers.connected import client_of, connect

CALLBACK = "https://store.test/callback"
ANNA = {
    "name": "Anna",
    "email": "anna@customer.test",
    "locale": "de",
    "realm_access": {"roles": ["offline", "shopper"]},
}
SAM = {"name": "Sam", "realm_access": {"roles": ["support"]}}


@dataclass
class OpenId:
    """A provider, and its discovery document."""

    client: httpx2.AsyncClient
    discovery: dict[str, Any]

    async def sign_in(self, user: str, audience: str = "chats") -> str:
        """Go through the authorization code flow; return the ID token."""
        params = {
            "client_id": audience,
            "redirect_uri": CALLBACK,
            "response_type": "code",
            "scope": "openid profile email",
            "state": "of this browser",
            "nonce": "once",
        }
        answer = await self.client.post(self.discovery["authorization_endpoint"], params=params, data={"sub": user})
        assert answer.headers["location"].startswith(CALLBACK), answer.text
        callback = parse_qs(urlsplit(answer.headers["location"]).query)
        assert callback["state"] == [params["state"]]
        form = {"grant_type": "authorization_code", "code": callback["code"][0], "redirect_uri": CALLBACK}
        granted = await self.client.post(
            self.discovery["token_endpoint"], data=form, auth=(audience, "the client's secret")
        )
        assert granted.status_code == 200, granted.text
        token: str = granted.json()["id_token"]
        return token


@pytest.fixture(scope="module")
async def openid(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpenId]:
    [port] = free_ports([0])
    child = Child(
        name="provider",
        command=[sys.executable, "-m", "oidc_provider_mock", "--port", str(port)],
        log=tmp_path_factory.mktemp("provider") / "log",
        ready=answers_ok(port, "/.well-known/openid-configuration"),
    )
    process = await spawn(child)
    try:
        await eventually(child.ready, 30)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            discovery = (await client.get("/.well-known/openid-configuration")).json()
            for user, about in {"anna": ANNA, "sam": SAM}.items():
                assert (await client.put(f"/users/{user}", json=about)).status_code == 204
            yield OpenId(client, discovery)
    finally:
        await end(process, child.stop_signal, 5)


@pytest.fixture
def settings(openid: OpenId) -> dict[str, Any]:
    return {
        "auth_jwks_url": openid.discovery["jwks_uri"],
        "auth_issuer": openid.discovery["issuer"],
        "auth_role_claim": "realm_access.roles",
        "auth_role_map": "support=admin,shopper=customer",
    }


@pytest.fixture
async def chats(
    conversations: SessionFactory, databases: dict[str, str], settings: dict[str, Any]
) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_conversations_app(
        ConversationsSettings(conversations_database_url=databases["conversations"], auth_secret=[SECRET], **settings)
    )
    connect(app, conversations)
    async with client_of(app) as client:
        yield client
    await app.state.keys.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_user_of_the_provider_is_accepted_by_both_apis(
    openid: OpenId,
    chats: httpx2.AsyncClient,
    settings: dict[str, Any],
    notifications: SessionFactory,
    databases: dict[str, str],
) -> None:
    anna, sam = bearer(await openid.sign_in("anna")), bearer(await openid.sign_in("sam"))
    begun = await chats.post("/api/v1/conversations", headers=anna, json={"subject": "Hello", "body": "Hello?"})
    assert begun.json()["user"] == {"id": "anna", "name": "Anna", "email": "anna@customer.test"}
    listed = await chats.get("/api/v1/admin/conversations", headers=sam)
    assert [item["id"] for item in listed.json()["items"]] == [begun.json()["id"]]
    assert problem(await chats.get("/api/v1/admin/conversations", headers=anna)) == (403, "forbidden")

    app = create_notifications_app(
        NotificationsSettings(notifications_database_url=databases["notifications"], **settings)
    )
    connect(app, notifications)
    async with client_of(app) as client:
        assert (await client.get("/api/v1/notifications/unread", headers=anna)).json() == {"unread": 0}
        assert (await client.get("/api/v1/notifications/emails", headers=sam)).status_code == 200
    await app.state.keys.close()


async def test_a_user_of_the_provider_can_begin_a_session(openid: OpenId, chats: httpx2.AsyncClient) -> None:
    answer = await chats.post("/session", data={"token": await openid.sign_in("anna")})
    assert answer.status_code == 303
    page = await chats.get("/dashboard/messages/")
    assert page.status_code == 200
    assert 'lang="de"' in page.text


async def test_the_providers_tokens_for_other_clients_are_rejected(openid: OpenId, chats: httpx2.AsyncClient) -> None:
    for token in (
        await openid.sign_in("anna", audience="another client"),
        await openid.sign_in("a stranger"),
        changed(await openid.sign_in("anna"), await openid.sign_in("sam")),
    ):
        answer = await chats.get("/api/v1/unread", headers=bearer(token))
        assert problem(answer) == (401, "unauthenticated")


def changed(token: str, other: str) -> str:
    """Combine the claims of another token with a token's signature."""
    assert jwt.get_unverified_header(token) == jwt.get_unverified_header(other)
    (head, _, mark), (_, payload, _) = token.split("."), other.split(".")
    return f"{head}.{payload}.{mark}"
