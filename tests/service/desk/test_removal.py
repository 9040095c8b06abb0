"""A message that was sent by mistake loses its text everywhere and keeps its number."""

from services.conversations.search.indexer import index_round
from shared.database.transactions import SessionFactory
from tests.service.helpers.callers import UNKNOWN_ID, Caller, logged, problem
from tests.service.helpers.sweeping import Sweeper


async def test_a_removed_message_keeps_its_place_for_both_sides(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    message = await sam.post(conversation, "The secret")
    before = await sam.peek(conversation)
    path = f"/conversations/{conversation}/messages/{message['id']}"

    for _ in range(2):  # a repeat changes nothing
        assert (await sam.call("DELETE", path)).status_code == 204

    for caller in (anna, sam):
        found = (await caller.get(f"/conversations/{conversation}/messages"))["items"]
        assert [(item["number"], item["body"], item.get("removed")) for item in found] == [
            (1, "Hello?", None),
            (2, "", True),
        ]
    after = await sam.peek(conversation)
    assert after == before | {"last_message": before["last_message"] | {"preview": ""}}
    log = await logged(conversations)
    assert "The secret" not in str(log)
    removed = {"conversation_id": conversation, "message_id": message["id"], "number": 2}
    assert [payload for kind, payload in log if kind == "message.removed"] == [removed]
    [*_, entry] = (await sam.get(f"/conversations/{conversation}/timeline"))["items"]
    assert (entry["kind"], entry["number"], entry["message_id"]) == ("removal", 2, message["id"])


async def test_a_removed_answer_leaves_the_customer_waiting_since_their_question(anna: Caller, sam: Caller) -> None:
    conversation = await anna.open(body="Hello?")
    answer = await sam.post(conversation["id"], "To the wrong person")
    path = f"/conversations/{conversation['id']}/messages/{answer['id']}"
    assert (await sam.call("DELETE", path)).status_code == 204
    assert (await sam.peek(conversation["id"]))["waiting_since"] is None  # the status has not moved
    edited = await sam.edit(conversation["id"], status="OPEN")
    question = (await anna.get(f"/conversations/{conversation['id']}/messages"))["items"][0]
    assert edited["waiting_since"] == question["created_at"]


async def test_an_earlier_message_leaves_the_preview(anna: Caller, sam: Caller) -> None:
    conversation = await anna.open(body="Number 4242")
    first = (await anna.get(f"/conversations/{conversation['id']}/messages"))["items"][0]
    await anna.post(conversation["id"], "Forget that")
    assert (await sam.call("DELETE", f"/conversations/{conversation['id']}/messages/{first['id']}")).status_code == 204
    assert (await anna.peek(conversation["id"]))["last_message"]["preview"] == "Forget that"


async def test_a_message_of_another_conversation_is_not_found(anna: Caller, sam: Caller) -> None:
    one, other = [(await anna.open(body="Hello?"))["id"] for _ in range(2)]
    message = (await anna.get(f"/conversations/{one}/messages"))["items"][0]["id"]
    for conversation, wanted in ((other, message), (one, UNKNOWN_ID), (UNKNOWN_ID, message)):
        answer = await sam.call("DELETE", f"/conversations/{conversation}/messages/{wanted}")
        assert problem(answer) == (404, "not-found")


async def test_a_replay_of_a_removed_post_shows_it_removed(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    path = f"/conversations/{conversation}/messages"
    posted = (await anna.call("POST", path, {"body": "The secret"}, key="k")).json()
    await sam.call("DELETE", f"/conversations/{conversation}/messages/{posted['id']}")
    again = await anna.call("POST", path, {"body": "The secret"}, key="k")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.json() == posted | {"body": "", "removed": True}


async def test_a_removed_message_is_found_no_more(
    anna: Caller, sam: Caller, sweeping: Sweeper, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    secret = await anna.post(conversation, "The crowbar")
    await anna.post(conversation, "The umbrella")
    await sweeping.number()
    await index_round(conversations, settle=0)
    await sam.call("DELETE", f"/conversations/{conversation}/messages/{secret['id']}")
    for _ in range(2):  # looked at directly, and indexed again
        for caller in (anna, sam):
            found = {word: (await caller.get("/conversations", q=word))["items"] for word in ("crowbar", "umbrella")}
            assert (found["crowbar"], len(found["umbrella"])) == ([], 1)
        await sweeping.number()
        await index_round(conversations, settle=0)
