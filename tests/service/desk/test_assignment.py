"""Conversations are assigned to admins; of several who claim one, one gets it."""

import asyncio

from shared.database.transactions import SessionFactory
from tests.service.helpers.callers import UNKNOWN_ID, Caller, logged, problem

SAM, KIM = {"id": "sam", "name": "Sam"}, {"id": "kim", "name": "Kim"}


async def test_an_admin_assigns_a_conversation_and_takes_it_back(anna: Caller, sam: Caller, kim: Caller) -> None:
    await kim.get("/admins")
    conversation = (await anna.open(body="Hello?"))["id"]
    before = await sam.peek(conversation)

    answer = await sam.call("PUT", f"/conversations/{conversation}/assignee", {"admin_id": "kim"})
    assert (answer.status_code, answer.json()) == (200, before | {"assignee": KIM})
    assert await sam.peek(conversation) == before | {"assignee": KIM}

    answer = await sam.call("PUT", f"/conversations/{conversation}/assignee", {"admin_id": None})
    assert answer.json() == before


async def test_only_one_of_several_admins_claims_a_conversation(
    anna: Caller, sam: Caller, kim: Caller, conversations: SessionFactory
) -> None:
    await asyncio.gather(sam.get("/admins"), kim.get("/admins"))
    conversation = (await anna.open(body="Hello?"))["id"]
    path = f"/conversations/{conversation}/assignee"

    answers = await asyncio.gather(
        *(caller.call("PUT", path, {"admin_id": who, "expected": None}) for caller, who in ((sam, "sam"), (kim, "kim")))
    )

    assert sorted(answer.status_code for answer in answers) == [200, 409]
    [won], [lost] = ([a for a in answers if a.status_code == status] for status in (200, 409))
    assert problem(lost) == (409, "assignee-changed")
    assert lost.json()["assignee_id"] == won.json()["assignee"]["id"]
    updates = [payload for kind, payload in await logged(conversations) if kind == "conversation.updated"]
    assert updates == [{"conversation_id": conversation, "assignee_id": won.json()["assignee"]["id"]}]
    # The winner's retry changes nothing more: it is not what it expected, but without `expected` it is.
    again = await sam.call("PUT", path, {"admin_id": won.json()["assignee"]["id"]})
    assert (again.status_code, len(await logged(conversations))) == (200, 3)


async def test_only_present_admins_can_be_assigned(anna: Caller, sam: Caller, kim: Caller, shop: Caller) -> None:
    await kim.get("/admins")
    conversation = (await anna.open(body="Hello?"))["id"]
    path = f"/conversations/{conversation}/assignee"
    for admin_id in ("anna", "nobody"):
        answer = await sam.call("PUT", path, {"admin_id": admin_id})
        assert problem(answer) == (422, "validation-failed")
        assert [error["loc"] for error in answer.json()["errors"]] == [["body", "admin_id"]]
    assert (await sam.call("PUT", path, {"admin_id": "kim"})).status_code == 200
    assert (await shop.call("DELETE", "/users/kim")).status_code == 204
    assert problem(await sam.call("PUT", path, {"admin_id": "kim"}))[0] == 422
    assert problem(await sam.call("PUT", path, {}))[0] == 422
    unknown = await sam.call("PUT", f"/conversations/{UNKNOWN_ID}/assignee", {"admin_id": "sam"})
    assert problem(unknown) == (404, "not-found")
    assert (await sam.get("/admins"))["items"] == [SAM]
    assert (await sam.peek(conversation))["assignee"] is None
    timeline = await sam.get(f"/conversations/{conversation}/timeline")
    assigned = [entry["assignee"] for entry in timeline["items"] if entry["kind"] == "assignment"]
    assert assigned == [{"id": "kim", "name": "Deleted admin"}]


async def test_who_replies_first_becomes_the_assignee(anna: Caller, sam: Caller, kim: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    reply = await kim.post(conversation, "I am looking into it.")
    await sam.post(conversation, "Solved.")
    found = await sam.peek(conversation)
    assert (found["assignee"], found["first_reply_at"]) == (KIM, reply["created_at"])
    edited = (await anna.open(body="Hello?"))["id"]
    assert (await sam.edit(edited, reply_body="Done.", status="RESOLVED"))["assignee"] == SAM


async def test_a_conversation_that_an_admin_opened_has_no_first_reply(anna: Caller, sam: Caller) -> None:
    await anna.get("/unread")
    conversation = (await sam.open(user_id="anna", body="Your parcel is late."))["id"]
    await anna.post(conversation, "Thank you.")
    await sam.post(conversation, "You are welcome.")
    assert (await sam.peek(conversation))["first_reply_at"] is None
    silent = (await anna.open())["id"]  # without a message
    reply = await sam.post(silent, "How can I help?")
    assert (await sam.peek(silent))["first_reply_at"] == reply["created_at"]


async def test_lists_filter_by_assignee_and_counts_leave_out_what_is_done(
    anna: Caller, sam: Caller, kim: Caller
) -> None:
    mine, theirs, nobodys, closed = [(await anna.open(body=f"{n}"))["id"] for n in range(4)]
    await sam.post(mine)
    await kim.post(theirs)
    await sam.edit(closed, reply_body="Done.", status="CLOSED")
    for params, expected in (
        ({"assigned": "me"}, {mine, closed}),
        ({"assigned": "none"}, {nobodys}),
        ({"assignee_id": "kim"}, {theirs}),
        ({"assigned": "me", "status": "CLOSED"}, {closed}),
        ({"assigned": "me", "unread": "true"}, set()),
        ({"assigned": "none", "user_id": "anna"}, {nobodys}),
        ({"assigned": "me", "sort": "waiting"}, {mine, closed}),
        ({"assignee_id": "nobody"}, set()),
    ):
        found = [item["id"] for page in await sam.pages("/conversations", limit=1, **params) for item in page]
        assert (set(found), len(found)) == (expected, len(expected)), params
    counts = await sam.get("/conversations/counts")
    assert (counts["mine"], counts["unassigned"]) == (1, 1)
    both = await sam.call("GET", "/conversations", params={"assigned": "me", "assignee_id": "kim"})
    assert problem(both) == (422, "validation-failed")


async def test_customers_see_nothing_of_it(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.post(conversation)
    await sam.call("PATCH", f"/conversations/{conversation}/labels", {"add": ["late"]})
    for found in (await anna.peek(conversation), *(await anna.get("/conversations"))["items"]):
        assert not found.keys() & {"assignee", "labels", "first_reply_at"}


async def test_open_conversations_of_an_erased_admin_are_unassigned(
    anna: Caller, sam: Caller, kim: Caller, shop: Caller
) -> None:
    await kim.get("/admins")
    open_one, done, resumed = [(await anna.open(body="Hello?"))["id"] for _ in range(3)]
    for conversation in (open_one, done, resumed):
        await sam.call("PUT", f"/conversations/{conversation}/assignee", {"admin_id": "kim"})
    await sam.edit(done, status="CLOSED")
    await sam.edit(resumed, status="RESOLVED")
    assert (await shop.call("DELETE", "/users/kim")).status_code == 204
    assert [item["id"] for item in (await sam.get("/conversations", assigned="none"))["items"]] == [open_one]
    assert (await sam.peek(done))["assignee"] == {"id": "kim", "name": "Deleted admin"}
    # Nobody would look after what is opened again.
    await anna.post(done, "It broke again.")
    await sam.edit(resumed, status="OPEN")
    for conversation in (done, resumed):
        assert (await sam.peek(conversation))["assignee"] is None
    await sam.post(done, "I will have a look.")
    assert (await sam.peek(done))["assignee"] == SAM
