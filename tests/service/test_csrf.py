"""What a browser's cookie may do on the APIs: nothing that changes something, unless a page of ours asked for it."""

from typing import Any

import httpx2
import pytest

from services.conversations import people, sessions
from services.conversations.rules import Side
from shared.auth import Principal, Role, issue_session_token
from shared.database import Sessions, transaction
from shared.settings import TokenSettings
from tests.service.browser import HOST, Browser, aged
from tests.service.conftest import SECRET
from tests.service.store import Caller, problem
from tests.service.test_access import OPERATIONS, Operation

CSRF_FAILED, UNAUTHENTICATED = (403, "csrf-failed"), (401, "unauthenticated")
NOTIFICATIONS = "/api/v1/notifications"
NOTIFICATION_OPERATIONS = [
    Operation("customer", "POST", f"{NOTIFICATIONS}/read-all"),
    Operation("customer", "POST", f"{NOTIFICATIONS}/{{notification_id}}/read"),
    Operation("admin", "POST", f"{NOTIFICATIONS}/emails/{{email_id}}/retry"),
]
UNSAFE = [o for o in OPERATIONS if o.method != "GET"]
FOREIGN = [
    {},
    {"X-CSRF-Token": ""},
    {"X-CSRF-Token": "x"},
    {"Origin": HOST},
    {"Origin": "https://evil.test", "own": "yes"},
    {"Origin": "null", "own": "yes"},
    {"Origin": HOST + ".evil.test", "own": "yes"},
    {"Sec-Fetch-Site": "cross-site", "own": "yes"},
    {"Sec-Fetch-Site": "same-site", "own": "yes"},
]


def forged(csrf: str) -> list[dict[str, str]]:
    """Return the headers of requests that no page of ours made; `own` ones know the session's secret all the same."""
    made = []
    for headers in FOREIGN:
        known = {"X-CSRF-Token": csrf} if "own" in headers else {}
        made.append({name: value for name, value in headers.items() if name != "own"} | known)
    return made


async def give_session(conversations: Sessions, client: httpx2.AsyncClient, user: str, role: str) -> Browser:
    """Begin a session in a browser that talks to an API."""
    side = Side(role)
    async with transaction(conversations) as session:
        await people.admit(session, Principal(user, Role(role)))
    async with transaction(conversations) as session:
        begun = await sessions.begin(session, user, side)
    browser = Browser(client)
    browser.token = issue_session_token(TokenSettings(auth_secret=[SECRET]), user, Role(role), begun.id, begun.csrf)
    return browser


async def unsafe_of(api: httpx2.AsyncClient, document: str) -> set[tuple[str, str]]:
    paths = (await api.get(document)).json()["paths"]
    found = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    return {(method, path) for method, path in found if method not in {"GET", "HEAD", "OPTIONS"}}


async def test_every_unsafe_operation_of_both_documents_is_tested_here(
    api: httpx2.AsyncClient, notifications_api: httpx2.AsyncClient
) -> None:
    assert await unsafe_of(api, "/openapi.json") == {(o.method, o.path) for o in UNSAFE}
    documented = await unsafe_of(notifications_api, f"{NOTIFICATIONS}/openapi.json")
    assert documented == {(o.method, o.path) for o in NOTIFICATION_OPERATIONS}


async def test_both_documents_declare_it(api: httpx2.AsyncClient, notifications_api: httpx2.AsyncClient) -> None:
    for client, document in ((api, "/openapi.json"), (notifications_api, f"{NOTIFICATIONS}/openapi.json")):
        for methods in (await client.get(document)).json()["paths"].values():
            for method, operation in methods.items():
                codes = operation["responses"]["403"]["content"]["application/problem+json"]["examples"]
                assert ("csrf-failed" in codes) == (method != "get")


@pytest.mark.parametrize("operation", UNSAFE, ids=str)
async def test_the_cookie_alone_changes_nothing(
    api: httpx2.AsyncClient, conversations: Sessions, anna: Caller, sam: Caller, operation: Operation
) -> None:
    role = "admin" if operation.roles == "admin" else "customer"
    user = "sam" if role == "admin" else "anna"
    conversation = (await anna.open(body="Hello"))["id"]
    browser = await give_session(conversations, api, user, role)
    before = await sam.peek(conversation)

    for headers in forged(browser.claims["csrf"]):
        assert problem(await operation.call(api, headers, conversation)) == CSRF_FAILED, headers

    assert await sam.peek(conversation) == before
    own = {"Origin": HOST, "Sec-Fetch-Site": "same-origin", "X-CSRF-Token": browser.claims["csrf"]}
    answer = await operation.call(api, own, conversation)
    if operation.roles == "store":
        assert problem(answer) == (403, "forbidden")
    else:
        assert answer.status_code in {200, 201, 204, 409}, answer.text


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.method == "GET"], ids=str)
async def test_to_read_needs_the_cookie_only(
    api: httpx2.AsyncClient, conversations: Sessions, anna: Caller, operation: Operation
) -> None:
    conversation = (await anna.open(body="Hello"))["id"]
    role = operation.roles.split()[0]
    await give_session(conversations, api, "sam" if role == "admin" else "anna", role)
    assert (await operation.call(api, {}, conversation)).status_code == 200


@pytest.mark.parametrize("operation", NOTIFICATION_OPERATIONS, ids=str)
async def test_the_notifications_api_asks_for_the_same(
    conversations: Sessions, notifications_api: httpx2.AsyncClient, operation: Operation
) -> None:
    browser = await give_session(conversations, notifications_api, "anna", operation.roles)
    nowhere = "01900000-0000-7000-8000-000000000000"
    path = operation.path.format(notification_id=nowhere, email_id=nowhere)
    for headers in forged(browser.claims["csrf"]):
        assert problem(await notifications_api.post(path, headers=headers)) == CSRF_FAILED, headers
    assert (await browser.call("POST", path)).status_code in {204, 404}


async def test_the_notifications_api_takes_the_cookie_until_its_token_expires(
    conversations: Sessions, notifications_api: httpx2.AsyncClient
) -> None:
    browser = await give_session(conversations, notifications_api, "anna", "customer")
    young = browser.token
    assert (await browser.get(f"{NOTIFICATIONS}/unread")).json() == {"unread": 0}
    assert problem(await browser.get(f"{NOTIFICATIONS}/emails")) == (403, "forbidden")
    async with transaction(conversations) as session:
        await sessions.end_all_of(session, "anna")
    assert (await browser.get(f"{NOTIFICATIONS}/unread")).status_code == 200
    browser.token = aged(young, 10.6)
    assert problem(await browser.get(f"{NOTIFICATIONS}/unread")) == UNAUTHENTICATED


async def test_a_token_in_the_header_wins_and_needs_no_more(
    api: httpx2.AsyncClient, conversations: Sessions, ben: Caller
) -> None:
    await give_session(conversations, api, "anna", "customer")
    foreign: dict[str, Any] = {"Origin": "https://store.test", "Sec-Fetch-Site": "cross-site"}
    answer = await ben.call("POST", "/conversations", {"subject": "Hello"}, headers=foreign)
    assert answer.json()["user"]["id"] == "ben"
