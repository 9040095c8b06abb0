"""Who is let in at all: people of the first visit, and people whom the store deleted and sends again."""

import asyncio

import pytest
from sqlalchemy import text

from shared.database import SessionFactory
from tests.service.helpers.callers import Caller, problem

UNAUTHENTICATED, NOT_FOUND = (401, "unauthenticated"), (404, "not-found")


async def test_the_key_of_another_caller_is_ones_own(anna: Caller, ben: Caller, sam: Caller) -> None:
    mine = await anna.open(body="Private", key="same")
    others = await ben.open(body="Private", key="same")
    assert mine["id"] != others["id"]
    answer = await ben.call("POST", f"/conversations/{mine['id']}/messages", {"body": "Private"}, key="same")
    assert problem(answer) == NOT_FOUND
    assert (await sam.open(user_id="anna", body="Private", key="same"))["id"] not in {mine["id"], others["id"]}


@pytest.mark.parametrize("identity", ["anna", "sam"])
async def test_a_deleted_user_is_rejected_until_the_store_syncs_them_again(
    anna: Caller, sam: Caller, shop: Caller, identity: str
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.post(conversation)  # both are known to the process that answers
    await anna.post(conversation)
    caller = {"anna": anna, "sam": sam}[identity]
    path = f"/conversations/{conversation}/messages"
    await shop.call("DELETE", f"/users/{identity}")

    for _ in range(2):
        assert problem(await caller.call("POST", path, {"body": "Hello?"})) == UNAUTHENTICATED
        assert problem(await caller.call("GET", path)) == UNAUTHENTICATED

    await shop.call("PUT", f"/users/{identity}", {"role": "admin" if identity == "sam" else "customer"})
    assert (await caller.call("POST", path, {"body": "Hello?"})).status_code == 201
    assert (await caller.call("GET", path)).status_code == 200


async def test_a_user_who_was_deleted_before_the_first_visit_is_refused(anna: Caller, shop: Caller) -> None:
    await shop.call("DELETE", "/users/anna")
    assert problem(await anna.call("GET", "/unread")) == UNAUTHENTICATED
    assert problem(await anna.call("POST", "/conversations", {"subject": "Hello"})) == UNAUTHENTICATED
    assert (await shop.call("PUT", "/users/anna", {})).status_code == 201
    assert await anna.get("/unread") == {"unread": 0}


async def test_first_visits_at_the_same_moment_make_one_user(anna: Caller, conversations: SessionFactory) -> None:
    await asyncio.gather(*(anna.open(body="Hello") for _ in range(8)))
    async with conversations() as session:
        assert (await session.execute(text("select id, version from users"))).all() == [("anna", 1)]
