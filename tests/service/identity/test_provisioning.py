"""Which users are admitted: new users on their first visit, and deleted users once the store syncs them again."""

import asyncio

import pytest
from sqlalchemy import text

from shared.database.transactions import SessionFactory
from tests.service.helpers.callers import Caller, problem

UNAUTHENTICATED, NOT_FOUND = (401, "unauthenticated"), (404, "not-found")


async def test_idempotency_keys_of_different_callers_are_independent(anna: Caller, ben: Caller, sam: Caller) -> None:
    own = await anna.open(body="Private", key="same")
    others = await ben.open(body="Private", key="same")
    assert own["id"] != others["id"]
    answer = await ben.call("POST", f"/conversations/{own['id']}/messages", {"body": "Private"}, key="same")
    assert problem(answer) == NOT_FOUND
    assert (await sam.open(user_id="anna", body="Private", key="same"))["id"] not in {own["id"], others["id"]}


@pytest.mark.parametrize("user_id", ["anna", "sam"])
async def test_a_deleted_user_is_rejected_until_the_store_syncs_them_again(
    anna: Caller, sam: Caller, shop: Caller, user_id: str
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.post(conversation)  # now the process has cached both users
    await anna.post(conversation)
    caller = {"anna": anna, "sam": sam}[user_id]
    path = f"/conversations/{conversation}/messages"
    await shop.call("DELETE", f"/users/{user_id}")

    for _ in range(2):
        assert problem(await caller.call("POST", path, {"body": "Hello?"})) == UNAUTHENTICATED
        assert problem(await caller.call("GET", path)) == UNAUTHENTICATED

    await shop.call("PUT", f"/users/{user_id}", {"role": "admin" if user_id == "sam" else "customer"})
    assert (await caller.call("POST", path, {"body": "Hello?"})).status_code == 201
    assert (await caller.call("GET", path)).status_code == 200


async def test_a_user_deleted_before_the_first_visit_is_rejected(anna: Caller, shop: Caller) -> None:
    await shop.call("DELETE", "/users/anna")
    assert problem(await anna.call("GET", "/unread")) == UNAUTHENTICATED
    assert problem(await anna.call("POST", "/conversations", {"subject": "Hello"})) == UNAUTHENTICATED
    assert (await shop.call("PUT", "/users/anna", {})).status_code == 201
    assert await anna.get("/unread") == {"unread": 0}


async def test_concurrent_first_visits_make_one_user(anna: Caller, conversations: SessionFactory) -> None:
    await asyncio.gather(*(anna.open(body="Hello") for _ in range(8)))
    async with conversations() as session:
        assert (await session.execute(text("select id, version from users"))).all() == [("anna", 1)]
