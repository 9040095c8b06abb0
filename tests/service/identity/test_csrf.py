"""CSRF protection of cookies in both APIs. Each route is covered in tests/service/access/test_matrix.py."""

from typing import Any

import httpx2

from services.conversations.identity import sessions
from services.conversations.identity.provisioning import provision_user
from services.conversations.rules import Side
from shared.auth.principal import Principal
from shared.auth.tokens import issue_session_token
from shared.database.transactions import SessionFactory, transaction
from shared.settings import Role, TokenSettings
from tests.service.conftest import SECRET
from tests.service.helpers.browser import Browser, aged
from tests.service.helpers.callers import Caller, problem

CSRF_FAILED, UNAUTHENTICATED = (403, "csrf-failed"), (401, "unauthenticated")
NOTIFICATIONS = "/api/v1/notifications"


async def give_session(conversations: SessionFactory, client: httpx2.AsyncClient, user: str, role: str) -> Browser:
    """Give a browser a session at an API."""
    side = Side(role)
    async with transaction(conversations) as session:
        await provision_user(session, Principal(user, Role(role)))
    async with transaction(conversations) as session:
        begun = await sessions.begin(session, user, side)
    browser = Browser(client)
    browser.token = issue_session_token(TokenSettings(auth_secret=[SECRET]), user, Role(role), begun.id, begun.csrf)
    return browser


NO_SESSION = {"/session", f"{NOTIFICATIONS}/inbound/mime"}
"""Routes that a browser's session does not authenticate; the first one responds with pages."""


async def test_both_documents_declare_csrf_failures(
    api: httpx2.AsyncClient, notifications_api: httpx2.AsyncClient
) -> None:
    for client, document in ((api, "/openapi.json"), (notifications_api, f"{NOTIFICATIONS}/openapi.json")):
        paths = (await client.get(document)).json()["paths"]
        for methods in (methods for path, methods in paths.items() if path not in NO_SESSION):
            for method, operation in methods.items():
                codes = operation["responses"]["403"]["content"]["application/problem+json"]["examples"]
                assert ("csrf-failed" in codes) == (method != "get")


async def test_the_notifications_api_accepts_the_cookie_until_its_token_expires(
    conversations: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    browser = await give_session(conversations, notifications_api, "anna", "customer")
    young = browser.token
    assert (await browser.get(f"{NOTIFICATIONS}/unread")).json() == {"unread": 0}
    assert problem(await browser.get(f"{NOTIFICATIONS}/emails")) == (403, "forbidden")
    async with transaction(conversations) as session:
        await sessions.end_all_sessions(session, "anna")
    assert (await browser.get(f"{NOTIFICATIONS}/unread")).status_code == 200
    browser.token = aged(young, 10.6)
    assert problem(await browser.get(f"{NOTIFICATIONS}/unread")) == UNAUTHENTICATED


async def test_a_bearer_token_takes_precedence_and_needs_no_csrf_token(
    api: httpx2.AsyncClient, conversations: SessionFactory, ben: Caller
) -> None:
    await give_session(conversations, api, "anna", "customer")
    foreign: dict[str, Any] = {"Origin": "https://store.test", "Sec-Fetch-Site": "cross-site"}
    answer = await ben.call("POST", "/conversations", {"subject": "Hello"}, headers=foreign)
    assert answer.json()["user"]["id"] == "ben"
