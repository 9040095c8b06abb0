"""Who may do what: every operation of the API document, for every kind of caller."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx2
import jwt
import pytest
from sqlalchemy import text

from shared.auth import issue_token
from shared.database import Sessions
from shared.settings import TokenSettings
from tests.service.conftest import SECRET, As
from tests.service.store import ORDER, Caller, problem

UNAUTHENTICATED, FORBIDDEN, NOT_FOUND = (401, "unauthenticated"), (403, "forbidden"), (404, "not-found")
NOWHERE = "01900000-0000-7000-8000-000000000000"
THREAD, ADMINS_THREAD = "/api/v1/conversations/{conversation_id}", "/api/v1/admin/conversations/{conversation_id}"


@dataclass(frozen=True)
class Operation:
    """One operation of the document: the roles that may call it, and a body that is right."""

    roles: str
    method: str
    path: str
    body: Any = None

    async def call(self, api: httpx2.AsyncClient, headers: dict[str, str], conversation: str = NOWHERE) -> Any:
        path = self.path.format(conversation_id=conversation, user_id="anna", order_id="A-1")
        body = {"json": self.body} if self.body else {}
        return await api.request(self.method, path, headers=headers, **body)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


OPERATIONS = [
    Operation("customer", "GET", "/api/v1/conversations"),
    Operation("customer", "POST", "/api/v1/conversations", {"subject": "Hello"}),
    Operation("customer", "GET", THREAD),
    Operation("customer", "GET", THREAD + "/messages"),
    Operation("customer", "POST", THREAD + "/messages", {"body": "Hello"}),
    Operation("customer", "POST", THREAD + "/read", {"up_to": 1}),
    Operation("customer", "GET", "/api/v1/orders"),
    Operation("customer admin", "GET", "/api/v1/unread"),
    Operation("admin", "GET", "/api/v1/admin/conversations"),
    Operation("admin", "GET", "/api/v1/admin/conversations/counts"),
    Operation("admin", "POST", "/api/v1/admin/conversations", {"user_id": "anna", "subject": "Hello", "body": "Hello"}),
    Operation("admin", "GET", ADMINS_THREAD),
    Operation("admin", "GET", ADMINS_THREAD + "/messages"),
    Operation("admin", "POST", ADMINS_THREAD + "/messages", {"body": "Hello"}),
    Operation("admin", "PATCH", ADMINS_THREAD, {"status": "CLOSED"}),
    Operation("admin", "PATCH", ADMINS_THREAD, {"reply_body": "Hello"}),
    Operation("admin", "POST", ADMINS_THREAD + "/read", {"up_to": 1}),
    Operation("admin", "POST", ADMINS_THREAD + "/unread"),
    Operation("admin", "POST", ADMINS_THREAD + "/viewing"),
    Operation("admin", "DELETE", ADMINS_THREAD),
    Operation("admin", "POST", "/api/v1/admin/conversations/bulk-delete", {"ids": [NOWHERE]}),
    Operation("admin", "GET", "/api/v1/admin/users"),
    Operation("store", "PUT", "/api/v1/store/users/{user_id}", {"name": "Anna"}),
    Operation("store", "DELETE", "/api/v1/store/users/{user_id}"),
    Operation("store", "DELETE", "/api/v1/store/users/{user_id}/sessions"),
    Operation("store", "PUT", "/api/v1/store/orders/{order_id}", ORDER),
    Operation("store", "DELETE", "/api/v1/store/orders/{order_id}"),
]
OF_ONE_CONVERSATION = [operation for operation in OPERATIONS if "{conversation_id}" in operation.path]
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=str)
each_of_one_conversation = pytest.mark.parametrize("operation", OF_ONE_CONVERSATION, ids=str)


def token(secret: str = SECRET, *, hours: float = 1, audience: str = "chats", **claims: Any) -> dict[str, str]:
    settings = TokenSettings(auth_secret=[secret], auth_audience=audience)
    signed = issue_token(settings, {"sub": "anna", "role": "customer", **claims}, timedelta(hours=hours))
    return {"Authorization": f"Bearer {signed}"}


def unsigned(role: str) -> dict[str, str]:
    claims = {"sub": "anna", "role": role, "iat": 1, "exp": 2**31, "aud": "chats"}
    return {"Authorization": f"Bearer {jwt.encode(claims, '', algorithm='none')}"}


async def test_every_operation_of_the_document_is_tested_here(api: httpx2.AsyncClient) -> None:
    paths = (await api.get("/openapi.json")).json()["paths"]
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    streams = {("GET", "/api/v1/stream")}  # they have no end to wait for: test_live.py
    assert documented == {(operation.method, operation.path) for operation in OPERATIONS} | streams


@each_operation
async def test_nobody_gets_in_without_a_valid_token(api: httpx2.AsyncClient, operation: Operation) -> None:
    role = operation.roles.split()[0]
    good = token(role=role)["Authorization"]
    for headers in (
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer x.y.z"},
        {"Authorization": good[:-3] + "AAA"},
        {"Authorization": good.replace("Bearer", "Basic")},
        {"Authorization": good + " " + good},
        {"Cookie": good},
        token("another secret, which is long enough too", role=role),
        token(hours=-1, role=role),
        token(audience="another shop", role=role),
        token(role="owner"),
        token(role=None),
        token(role=role, sub="two words"),
        token(role=role, sub=""),
        unsigned(role),
    ):
        answer = await operation.call(api, headers)
        assert problem(answer) == UNAUTHENTICATED, headers
        assert answer.headers["www-authenticate"] == "Bearer"


@each_operation
async def test_each_operation_is_for_its_roles_only(
    api: httpx2.AsyncClient, acting_as: As, operation: Operation
) -> None:
    for role in ("customer", "admin", "store"):
        answer = await operation.call(api, acting_as("somebody", role))
        if role in operation.roles.split():
            assert answer.status_code in {200, 201, 204, 404, 422}
        else:
            assert problem(answer) == FORBIDDEN


@each_of_one_conversation
async def test_a_conversation_that_does_not_exist_is_not_found(
    api: httpx2.AsyncClient, acting_as: As, operation: Operation
) -> None:
    assert problem(await operation.call(api, acting_as("anna", operation.roles))) == NOT_FOUND


@pytest.mark.parametrize("operation", [o for o in OF_ONE_CONVERSATION if o.roles == "customer"], ids=str)
async def test_another_customers_conversation_is_as_one_that_does_not_exist(
    api: httpx2.AsyncClient, anna: Caller, ben: Caller, sam: Caller, operation: Operation
) -> None:
    conversation = (await anna.open(body="Private"))["id"]
    before = await sam.peek(conversation)

    answer = await operation.call(api, ben.headers, conversation)
    nothing = await operation.call(api, ben.headers, NOWHERE)

    assert problem(answer) == NOT_FOUND
    assert answer.content == nothing.content
    assert {*answer.headers} == {*nothing.headers}
    assert await sam.peek(conversation) == before
    assert (await operation.call(api, anna.headers, conversation)).is_success


async def test_a_customers_lists_and_counts_hold_nothing_of_others(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    await shop.call("PUT", "/orders/A-1", ORDER)
    conversation = (await anna.open(order_id="A-1"))["id"]
    await sam.post(conversation)
    for path in ("/conversations", "/conversations?order_id=A-1", "/conversations?user_id=anna", "/orders"):
        assert (await ben.get(path))["items"] == []
    assert await ben.get("/unread") == {"unread": 0}


async def test_the_key_of_another_caller_is_ones_own(anna: Caller, ben: Caller, sam: Caller) -> None:
    mine = await anna.open(body="Private", key="same")
    others = await ben.open(body="Private", key="same")
    assert mine["id"] != others["id"]
    answer = await ben.call("POST", f"/conversations/{mine['id']}/messages", {"body": "Private"}, key="same")
    assert problem(answer) == NOT_FOUND
    assert (await sam.open(user_id="anna", body="Private", key="same"))["id"] not in {mine["id"], others["id"]}


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.roles != "store"], ids=str)
async def test_a_deleted_user_is_refused_everything_until_the_store_sends_them_again(
    api: httpx2.AsyncClient, anna: Caller, sam: Caller, shop: Caller, operation: Operation
) -> None:
    caller = sam if operation.roles == "admin" else anna
    identity = "sam" if caller is sam else "anna"
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.post(conversation)  # both are known to the process that answers
    await anna.post(conversation)
    await shop.call("DELETE", f"/users/{identity}")

    for _ in range(2):
        assert problem(await operation.call(api, caller.headers, conversation)) == UNAUTHENTICATED

    await shop.call("PUT", f"/users/{identity}", {"role": operation.roles.split()[0]})
    if identity == "sam":
        await shop.call("PUT", "/users/anna", {})
    assert (await operation.call(api, caller.headers, conversation)).status_code in {200, 201, 204, 409}


async def test_a_user_who_was_deleted_before_the_first_visit_is_refused(anna: Caller, shop: Caller) -> None:
    await shop.call("DELETE", "/users/anna")
    assert problem(await anna.call("GET", "/unread")) == UNAUTHENTICATED
    assert problem(await anna.call("POST", "/conversations", {"subject": "Hello"})) == UNAUTHENTICATED
    assert (await shop.call("PUT", "/users/anna", {})).status_code == 201
    assert await anna.get("/unread") == {"unread": 0}


async def test_first_visits_at_the_same_moment_make_one_user(anna: Caller, conversations: Sessions) -> None:
    await asyncio.gather(*(anna.open(body="Hello") for _ in range(8)))
    async with conversations() as session:
        assert (await session.execute(text("select id, version from users"))).all() == [("anna", 1)]
