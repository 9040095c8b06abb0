"""Posting a message: the SQL follows `rules.py`, also with concurrent posts."""

import asyncio
from itertools import product

import httpx2
import pytest

from services.conversations.rules import EFFECTS, ChosenStatus, Side, Status
from tests.service.conftest import As


async def create(api: httpx2.AsyncClient, acting_as: As, **fields: object) -> str:
    answer = await api.post(
        "/api/v1/conversations", headers=acting_as("anna"), json={"subject": "Where is my parcel?", **fields}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.mark.parametrize(("status", "side", "first"), list(product(Status, Side, [True, False])))
async def test_a_message_changes_the_conversation_as_the_rules_say(
    api: httpx2.AsyncClient, acting_as: As, status: Status, side: Side, first: bool
) -> None:
    conversation = await create(api, acting_as, **({} if first else {"body": "Hello?"}))
    admin = acting_as("sam", "admin")
    await api.patch(f"/api/v1/admin/conversations/{conversation}", headers=admin, json={"status": status})

    prefix, headers = ("/api/v1", acting_as("anna")) if side is Side.CUSTOMER else ("/api/v1/admin", admin)
    posted = await api.post(f"{prefix}/conversations/{conversation}/messages", headers=headers, json={"body": "Well?"})

    assert posted.status_code == 201
    found = (await api.get(f"/api/v1/admin/conversations/{conversation}?peek=true", headers=admin)).json()
    effect = EFFECTS[side]
    assert found["status"] == (effect.after_first if first else effect.after_later)[status]
    assert found["is_read_by_admin"] == effect.is_read_by_admin
    assert found["is_read_by_user"] == effect.is_read_by_user
    assert found["message_count"] == (1 if first else 2)
    assert found["last_activity_at"] == posted.json()["created_at"]


@pytest.mark.parametrize(("status", "chosen"), list(product(Status, ChosenStatus)))
async def test_a_status_that_an_admin_chooses_wins_and_the_present_one_can_be_kept(
    api: httpx2.AsyncClient, acting_as: As, status: Status, chosen: ChosenStatus
) -> None:
    conversation, admin = await create(api, acting_as, body="Hello?"), acting_as("sam", "admin")
    path = f"/api/v1/admin/conversations/{conversation}"
    await api.patch(path, headers=admin, json={"status": status})

    edited = await api.patch(path, headers=admin, json={"reply_body": "Hello!", "status": chosen})

    assert edited.status_code == 200, edited.text
    assert edited.json()["status"] == (status if chosen is ChosenStatus.KEEP else chosen)


async def test_concurrent_posts_are_numbered_without_gaps_in_the_order_of_their_times(
    api: httpx2.AsyncClient, acting_as: As
) -> None:
    conversation = await create(api, acting_as)
    path = f"/api/v1/conversations/{conversation}/messages"

    posts = [api.post(path, headers=acting_as("anna"), json={"body": f"number {n}"}) for n in range(40)]
    answers = await asyncio.gather(*posts)

    assert {answer.status_code for answer in answers} == {201}
    listed = (await api.get(path, headers=acting_as("anna"), params={"limit": 100})).json()["items"]
    assert [message["number"] for message in listed] == list(range(1, 41))
    assert [message["created_at"] for message in listed] == sorted(message["created_at"] for message in listed)


async def test_twelve_concurrent_posts_with_one_key_make_one_message(api: httpx2.AsyncClient, acting_as: As) -> None:
    conversation = await create(api, acting_as, body="Hello?")
    await api.patch(
        f"/api/v1/admin/conversations/{conversation}", headers=acting_as("sam", "admin"), json={"status": "CLOSED"}
    )
    path, headers = f"/api/v1/conversations/{conversation}/messages", acting_as("anna") | {"Idempotency-Key": "once"}

    answers = await asyncio.gather(*(api.post(path, headers=headers, json={"body": "Again"}) for _ in range(12)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    found = (await api.get(f"/api/v1/conversations/{conversation}", headers=acting_as("anna"))).json()
    assert found["message_count"] == 2


async def test_a_replay_changes_nothing(api: httpx2.AsyncClient, acting_as: As) -> None:
    conversation = await create(api, acting_as)
    path, headers = f"/api/v1/conversations/{conversation}/messages", acting_as("anna") | {"Idempotency-Key": "once"}
    await api.post(path, headers=headers, json={"body": "Hello"})
    admin = acting_as("sam", "admin")
    edit = f"/api/v1/admin/conversations/{conversation}"
    before = (await api.patch(edit, headers=admin, json={"status": "CLOSED"})).json()

    replay = await api.post(path, headers=headers, json={"body": " \n\nHello "})

    assert (replay.status_code, replay.headers["idempotency-replayed"]) == (201, "true")
    assert (await api.get(f"{edit}?peek=true", headers=admin)).json() == before


async def test_a_key_with_other_fields_is_rejected(api: httpx2.AsyncClient, acting_as: As) -> None:
    conversation = await create(api, acting_as)
    path, headers = f"/api/v1/conversations/{conversation}/messages", acting_as("anna") | {"Idempotency-Key": "once"}
    await api.post(path, headers=headers, json={"body": "Hello"})

    answer = await api.post(path, headers=headers, json={"body": "Something else"})

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")


async def test_a_reply_that_crosses_a_new_message_is_rejected_and_changes_nothing(
    api: httpx2.AsyncClient, acting_as: As
) -> None:
    conversation = await create(api, acting_as, body="Hello?")
    admin, edit = acting_as("sam", "admin"), f"/api/v1/admin/conversations/{conversation}"
    await api.post(
        f"/api/v1/conversations/{conversation}/messages", headers=acting_as("anna"), json={"body": "One more thing"}
    )
    before = (await api.get(f"{edit}?peek=true", headers=admin)).json()

    reply = {"reply_body": "Done", "status": "RESOLVED", "seen_number": 1}
    for body in (reply, {"status": "RESOLVED", "seen_number": 1}):
        answer = await api.patch(edit, headers=admin, json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "newer-messages")

    assert (await api.get(f"{edit}?peek=true", headers=admin)).json() == before
