"""Retries are safe: the same key gives the same result without further effects."""

import asyncio
from typing import Any

import pytest

from shared.database.transactions import SessionFactory
from tests.service.helpers.callers import ORDER, Caller, logged, problem

REUSED = (422, "idempotency-key-reused")


async def requests(anna: Caller, sam: Caller) -> dict[str, tuple[Caller, str, str, dict[str, Any], dict[str, Any]]]:
    """Return all requests with idempotency keys: caller, method, path, fields, and other fields."""
    thread = f"/conversations/{(await anna.open(body='Hello?'))['id']}"
    with_anna = {"user_id": "anna", "subject": "Hi", "body": "Hello"}
    return {
        "create": (anna, "POST", "/conversations", {"subject": "Hi", "body": "Hello"}, {"subject": "Hi"}),
        "admin create": (sam, "POST", "/conversations", with_anna, with_anna | {"status": "CLOSED"}),
        "post": (anna, "POST", f"{thread}/messages", {"body": "Hello"}, {"body": "Hello!"}),
        "admin post": (sam, "POST", f"{thread}/messages", {"body": "Hello"}, {"body": "Hello", "seen_number": 9}),
        "edit": (sam, "PATCH", thread, {"reply_body": "Hello"}, {"reply_body": "Hello", "status": "CLOSED"}),
    }


each_request = pytest.mark.parametrize("name", ["create", "admin create", "post", "admin post", "edit"])


@each_request
async def test_the_same_request_with_the_same_key_takes_effect_once(
    anna: Caller, sam: Caller, conversations: SessionFactory, name: str
) -> None:
    caller, method, path, fields, other = (await requests(anna, sam))[name]
    first = await caller.call(method, path, fields, key="once")
    assert first.is_success
    assert "idempotency-replayed" not in first.headers
    before = await logged(conversations)

    padded = {
        field: f" \n\n{value} \n" if field in {"body", "reply_body"} else value for field, value in fields.items()
    }
    again = await caller.call(method, path, padded, key="once")
    reused = await caller.call(method, path, other, key="once")

    assert (again.status_code, again.headers["idempotency-replayed"]) == (first.status_code, "true")
    assert again.json() == first.json()
    assert again.headers.get("location") == first.headers.get("location")
    assert problem(reused) == REUSED
    assert await logged(conversations) == before
    assert (await caller.call(method, path, fields, key="twice")).json() != first.json()


@each_request
async def test_concurrent_requests_with_the_same_key_take_effect_once(
    anna: Caller, sam: Caller, conversations: SessionFactory, name: str
) -> None:
    caller, method, path, fields, _ = (await requests(anna, sam))[name]
    await caller.get("/conversations")
    before = len(await logged(conversations))

    answers = await asyncio.gather(*(caller.call(method, path, fields, key="once") for _ in range(8)))

    assert len({answer.status_code for answer in answers}) == 1
    assert answers[0].is_success
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    kinds = [kind for kind, _ in (await logged(conversations))[before:]]
    assert kinds == (["conversation.created"] if "create" in name else []) + ["message.posted"]


@each_request
async def test_a_retry_after_the_conversation_was_deleted_is_not_found_and_creates_nothing(
    anna: Caller, sam: Caller, name: str
) -> None:
    caller, method, path, fields, _ = (await requests(anna, sam))[name]
    first = (await caller.call(method, path, fields, key="once")).json()
    conversation = first.get("conversation_id", first["id"])
    await sam.edit(conversation, status="CLOSED")
    assert (await sam.call("DELETE", f"/conversations/{conversation}")).status_code == 204

    assert problem(await caller.call(method, path, fields, key="once")) == (404, "not-found")


async def test_a_replay_returns_the_resource_in_its_current_state(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?", key="once"))["id"]
    await sam.edit(conversation, status="RESOLVED")
    assert await anna.open(body="Hello?", key="once") == await anna.peek(conversation)


async def test_a_retry_gets_its_success_instead_of_the_newer_messages_error(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    fields = {"reply_body": "Done.", "seen_number": 1}
    await sam.call("PATCH", f"/conversations/{conversation}", fields, key="once")
    await anna.post(conversation)

    again = await sam.call("PATCH", f"/conversations/{conversation}", fields, key="once")
    other = await sam.call("PATCH", f"/conversations/{conversation}", fields | {"reply_body": "No."}, key="once")
    fresh = await sam.call("PATCH", f"/conversations/{conversation}", fields, key="another")

    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert again.json()["message_count"] == 3
    assert problem(other) == REUSED
    assert problem(fresh) == (409, "newer-messages")


async def test_a_rejected_request_does_not_use_up_its_key(anna: Caller, sam: Caller, shop: Caller) -> None:
    fields = {"subject": "Hello", "order_id": "A-1"}
    assert problem(await anna.call("POST", "/conversations", fields, key="once")) == (422, "validation-failed")
    await shop.call("PUT", "/orders/A-1", ORDER)
    conversation = (await anna.call("POST", "/conversations", fields, key="once")).json()["id"]
    await sam.post(conversation)

    path = f"/conversations/{conversation}/messages"
    refused = await anna.call("POST", path, {"body": "Hi", "seen_number": 0}, key="later")
    assert problem(refused) == (409, "newer-messages")
    assert (await anna.call("POST", path, {"body": "Hi", "seen_number": 1}, key="later")).status_code == 201


async def test_one_key_on_different_paths_is_independent(anna: Caller, sam: Caller) -> None:
    conversations = [(await anna.open(body="Hello?"))["id"] for _ in range(2)]
    for conversation in conversations:
        for caller, method, end, fields in (
            (anna, "POST", "/messages", {"body": "Hi"}),
            (sam, "POST", "/messages", {"body": "Hi"}),
            (sam, "PATCH", "", {"reply_body": "Hi"}),
        ):
            answer = await caller.call(method, f"/conversations/{conversation}{end}", fields, key="same")
            assert answer.is_success
            assert "idempotency-replayed" not in answer.headers
        assert (await sam.peek(conversation))["message_count"] == 4
