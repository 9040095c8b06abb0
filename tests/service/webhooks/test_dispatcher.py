"""Webhooks on their way: what is sent, in which order, and what follows from what an endpoint answers."""

from collections import defaultdict
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from services.conversations.rules import WebhookError
from services.conversations.webhooks import dispatcher, results
from services.conversations.webhooks.log_reader import read_round
from services.conversations.webhooks.results import Claimed, Result, record_results
from services.conversations.webhooks.sending import Outcome
from services.conversations.webhooks.signing import sign
from shared.database.transactions import connection_provider, transaction
from tests.helpers.waiting import eventually
from tests.helpers.webhook_receiver import Answer, Received
from tests.service.helpers.callers import Caller
from tests.service.messaging.test_deleting import waiting_for_a_lock
from tests.service.webhooks.conftest import ALL_TYPES, Hooks


def by_conversation(requests: list[Received]) -> dict[str, list[Any]]:
    """Return what arrived of each conversation, in order: a message's number, else the type."""
    lines = defaultdict(list)
    for request in requests:
        is_message = request.type == "message.posted"
        told = request.data["message"]["number"] if is_message else request.type.removeprefix("conversation.")
        lines[request.data["conversation_id"]].append(told)
    return lines


async def test_a_conversation_is_told_from_its_creation_to_its_deletion(
    hooks: Hooks, anna: Caller, sam: Caller
) -> None:
    webhook = await hooks.create()
    conversation = (await anna.open(body="Where is it?"))["id"]
    reply = await sam.post(conversation, "On its way")
    await sam.edit(conversation, status="CLOSED")
    await hooks.settle()
    await sam.call("DELETE", f"/conversations/{conversation}")
    await hooks.settle()
    told = hooks.receiver.received
    assert [request.type for request in told] == [
        "conversation.created",
        "message.posted",
        "message.posted",
        "conversation.status_changed",
        "conversation.status_changed",
        "conversation.deleted",
    ]
    message = told[2].data
    assert message["message"]["id"] == reply["id"]
    assert message["message"]["sender"] == {"id": "sam", "role": "admin"}
    assert message["message"]["body"] == "On its way"
    assert message["conversation"]["user"] == {"id": "anna"}
    assert [(each.data["from"], each.data["to"]) for each in told[3:5]] == [
        ("OPEN", "AWAITING_USER"),
        ("AWAITING_USER", "CLOSED"),
    ]
    assert told[5].data == {"conversation_id": conversation}
    everything = b"".join(request.body for request in told)
    assert b"Anna" not in everything, "names are the store's own"
    assert b"@" not in everything
    for request in told:
        timestamp = int(request.headers["webhook-timestamp"])
        expected = sign([webhook["secret"]], request.id, timestamp, request.body)
        assert request.headers["webhook-signature"] == expected
        assert request.headers["content-type"] == "application/json"
    assert len({request.id for request in told}) == len(told)


async def test_a_secret_in_use_signs_after_a_retry_without_a_key(hooks: Hooks) -> None:
    """The response to the first request may have been lost, so that the endpoint still knows the secret before."""
    webhook = await hooks.create()
    path = f"/webhooks/{webhook['id']}"

    async def renew(hours: float = 24) -> dict[str, Any]:
        fresh: dict[str, Any] = (await hooks.shop.call("POST", f"{path}/secret", {"keep_previous_hours": hours})).json()
        return fresh

    async def signs(*expected: dict[str, Any]) -> None:
        await hooks.shop.call("POST", f"{path}/test")
        await hooks.settle()
        request = hooks.receiver.accepted[-1]
        keys = [each["secret"] for each in expected]
        timestamp = int(request.headers["webhook-timestamp"])
        assert request.headers["webhook-signature"] == sign(keys, request.id, timestamp, request.body)

    first, retry = await renew(), await renew()
    await signs(retry, first, webhook)
    short = await renew(1)
    assert short["previous_secret_until"] < retry["previous_secret_until"]
    [(ends,)] = await hooks.rows("select jsonb_path_query_array(older_secrets, '$[*].until') from webhooks")
    until = datetime.fromisoformat(short["previous_secret_until"])
    assert [datetime.fromisoformat(end) for end in ends] == [until, until]
    await hooks.execute("update webhooks set old_secret_until = now()")
    await signs(short, first, webhook)
    newer = [await renew() for _ in range(7)]
    await signs(*newer[:0:-1])
    await signs(await renew(0))


async def test_only_what_was_asked_for_and_happened_since_is_told_and_without_webhooks_nothing_is_written(
    hooks: Hooks, anna: Caller, sam: Caller
) -> None:
    conversation = (await anna.open(body="Before"))["id"]
    await hooks.settle()
    assert await hooks.rows("select * from webhook_deliveries") == []
    assert await hooks.rows("select position, holder from webhook_progress") == [(0, None)]
    assert await hooks.rows("select 1 from events where payload ? 'status_before'") == []
    await hooks.create(["message.posted"])
    await sam.post(conversation, "After")
    await sam.edit(conversation, status="CLOSED")
    await hooks.settle()
    assert by_conversation(hooks.receiver.received) == {conversation: [2]}


async def test_an_admins_first_message_that_opens_a_conversation_is_no_change_of_its_status(
    hooks: Hooks, anna: Caller, sam: Caller
) -> None:
    await anna.open()  # so that she is known
    await hooks.number()
    await hooks.create()
    opened = await sam.open(user_id="anna", body="Your parcel is back")
    empty = await anna.open()
    await sam.post(empty["id"], "You have opened this without a message")
    await hooks.settle()
    assert by_conversation(hooks.receiver.received) == {
        opened["id"]: ["created", 1],
        empty["id"]: ["created", 1, "status_changed"],
    }


async def test_each_conversation_is_in_order_while_its_deliveries_fail_and_the_others_go_on(
    hooks: Hooks, anna: Caller, sam: Caller
) -> None:
    await hooks.create(["conversation.created", "message.posted"])
    slow, quick = [(await anna.open(body="1"))["id"] for _ in range(2)]
    for conversation in (slow, quick):
        for number in range(2, 5):
            await sam.post(conversation, str(number))
    failures = iter([503, 500, 302, 503])

    def answer(request: Received) -> Answer:
        if request.data["conversation_id"] == slow and request.type == "message.posted":
            return Answer(next(failures, 204))
        return Answer()

    hooks.receiver.answer = answer
    await hooks.settle((0, *[0.05] * 5))
    assert by_conversation(hooks.receiver.accepted) == {each: ["created", 1, 2, 3, 4] for each in (slow, quick)}
    first_slow = [request.data.get("message", {}).get("number") for request in hooks.receiver.received]
    assert first_slow.count(1) == 2 + 4
    order = [request.data["conversation_id"] for request in hooks.receiver.accepted]
    assert order.index(slow, order.index(slow) + 1) > len(order) - 5, "the other one does not wait"


async def test_after_the_last_attempt_a_delivery_fails_and_its_conversation_goes_on(
    hooks: Hooks, anna: Caller, sam: Caller
) -> None:
    webhook = await hooks.create(["message.posted"])
    conversation = (await anna.open(body="The bad one"))["id"]
    await sam.post(conversation, "The next one")
    hooks.receiver.answer = lambda request: Answer(400 if request.data["message"]["number"] == 1 else 200, b"no\0pe")
    await hooks.settle()
    assert [request.data["message"]["number"] for request in hooks.receiver.received] == [1, 1, 1, 2]
    assert len({request.id for request in hooks.receiver.received[:3]}) == 1, "the same id at each attempt"
    path = f"/webhooks/{webhook['id']}/deliveries"
    newest, oldest = (await hooks.shop.get(path))["items"]
    assert (newest["state"], newest["attempts"], newest["response"]) == ("delivered", 1, None)
    assert (oldest["state"], oldest["attempts"], oldest["status"], oldest["error"]) == ("failed", 3, 400, "status")
    assert oldest["response"] == "no\N{REPLACEMENT CHARACTER}pe"
    assert [each["id"] for each in (await hooks.shop.get(path, state="failed"))["items"]] == [oldest["id"]]

    hooks.receiver.answer = lambda _: Answer()
    again = await hooks.shop.call("POST", f"{path}/{oldest['id']}/replay")
    assert again.status_code == 201
    assert again.json()["replay_of"] == oldest["id"]
    await hooks.settle()
    assert hooks.receiver.accepted[-1].id == oldest["event_id"]
    assert hooks.receiver.accepted[-1].data["message"]["body"] == "The bad one"


async def test_what_is_deleted_or_removed_is_never_sent_later_and_what_was_answered_is_erased(
    hooks: Hooks, anna: Caller, sam: Caller
) -> None:
    await hooks.create(["message.posted", "conversation.deleted"])
    gone, kept = [(await anna.open(body="The MARKER"))["id"] for _ in range(2)]
    slip = await sam.post(kept, "A slip with the MARKER")
    hooks.receiver.answer = lambda request: Answer(500, request.body)
    echoed = "select count(*) from webhook_deliveries where response like '%MARKER%'"

    async def is_echoed() -> bool:
        return await hooks.rows(echoed) == [(2,)]

    await hooks.run_until(is_echoed, (0, 2, 2))
    await sam.edit(gone, status="CLOSED")
    await sam.call("DELETE", f"/conversations/{gone}")
    await sam.call("DELETE", f"/conversations/{kept}/messages/{slip['id']}")
    assert await hooks.rows(echoed) == [(1,)], "the customer's own message in the other conversation"
    holder = uuid4()
    await hooks.execute("update webhook_progress set holder = :holder", holder=holder)
    [late] = await hooks.rows(
        "select id, webhook_id, lane, conversation_id, message_id, attempts from webhook_deliveries"
        " where message_id = :id",
        id=slip["id"],
    )
    answered = results.Result(results.Claimed(*late), Outcome(500, WebhookError.STATUS, "The MARKER"))
    await results.record_results(hooks.sessions, holder, [answered], (0, 2, 2))
    assert await hooks.rows(echoed) == [(1,)], "not what is answered after the removal either"
    await hooks.execute("update webhook_progress set holder = null")
    hooks.receiver.answer = lambda _: Answer()
    await hooks.execute("update webhook_deliveries set due_at = clock_timestamp() where due_at is not null")
    await hooks.settle((0, 2, 2))
    told = by_conversation(hooks.receiver.accepted)
    assert told[gone] == ["deleted"]
    messages = [request.data["message"] for request in hooks.receiver.accepted if "message" in request.data]
    [removed] = [message for message in messages if message["number"] == 2]
    assert (removed["body"], removed["removed"]) == ("", True)
    states = await hooks.rows("select state from webhook_deliveries where conversation_id = :id order by id", id=gone)
    assert states == [("dropped",), ("delivered",)]


async def test_410_disables_and_enabling_goes_on_in_order(hooks: Hooks, anna: Caller, sam: Caller) -> None:
    webhook = await hooks.create(["message.posted"])
    conversation = (await anna.open(body="1"))["id"]
    await sam.post(conversation, "2")
    hooks.receiver.answer = lambda _: Answer(410)

    async def is_gone() -> bool:
        return bool((await hooks.shop.get(f"/webhooks/{webhook['id']}"))["disabled_reason"] == "gone")

    await hooks.run_until(is_gone)
    assert len(hooks.receiver.received) == 1
    await sam.post(conversation, "3: nobody is told")
    hooks.receiver.answer = lambda _: Answer()
    await hooks.number()
    enabled = await hooks.shop.call("PATCH", f"/webhooks/{webhook['id']}", {"enabled": True})
    assert (enabled.json()["enabled"], enabled.json()["failures"]) == (True, 0)
    await sam.post(conversation, "4")
    await hooks.settle()
    assert by_conversation(hooks.receiver.accepted) == {conversation: [1, 2, 4]}


async def test_a_breaker_opens_probes_and_closes_and_after_five_days_a_webhook_is_disabled(
    hooks: Hooks, anna: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_JUDGE", results._JUDGE.replace("least(5.0", "least(0.3"))  # noqa: SLF001 - its pause
    webhook = await hooks.create(["message.posted"])
    for _ in range(15):
        await anna.open(body="Hello?")
    hooks.receiver.answer = lambda _: Answer(hang_up=True)
    many = (0, *[0.01] * 20)

    async def is_open() -> bool:
        return bool((await hooks.shop.get(f"/webhooks/{webhook['id']}"))["paused_until"])

    await hooks.run_until(is_open, many)
    before = len(hooks.receiver.received)
    assert before >= 10
    async with hooks.dispatching(many):
        await eventually(lambda: len(hooks.receiver.received) > before)
    assert len(hooks.receiver.received) <= before + 2, "one at a time"
    await hooks.execute(
        "update webhooks set failing_since = clock_timestamp() - interval '6 days', paused_until = null"
    )

    async def is_off() -> bool:
        return bool((await hooks.shop.get(f"/webhooks/{webhook['id']}"))["disabled_reason"] == "failing")

    await hooks.run_until(is_off, many)
    hooks.receiver.answer = lambda _: Answer()
    await hooks.shop.call("PATCH", f"/webhooks/{webhook['id']}", {"enabled": True})
    await hooks.settle(many)
    assert len(hooks.receiver.accepted) == 15


async def test_a_slow_endpoint_holds_up_no_other_and_a_timeout_is_said(hooks: Hooks, anna: Caller) -> None:
    slow = await hooks.create(["message.posted"], url=f"{hooks.receiver.url}/slow")
    await hooks.create(["message.posted"])
    hooks.receiver.answer = lambda request: Answer(delay=30 if "slow" in request.path else 0)
    for _ in range(40):
        await anna.open(body="Hello?")
    async with hooks.dispatching((0, 60), seconds=0.5):
        await eventually(lambda: len(hooks.receiver.accepted) == 40)

        async def has_timed_out() -> bool:
            items = (await hooks.shop.get(f"/webhooks/{slow['id']}/deliveries", limit="100"))["items"]
            return bool(sum(each["error"] == "timeout" for each in items) >= 10)

        await eventually(has_timed_out)


async def test_retry_after_is_honoured_with_a_bound(hooks: Hooks, anna: Caller) -> None:
    webhook = await hooks.create(["message.posted"])
    await anna.open(body="Hello?")
    hooks.receiver.answer = lambda _: Answer(429, headers={"Retry-After": "86400"})

    async def was_tried() -> bool:
        [delivery] = (await hooks.shop.get(f"/webhooks/{webhook['id']}/deliveries"))["items"] or [{"attempts": 0}]
        return bool(delivery["attempts"] == 1)

    await hooks.run_until(was_tried)
    [(seconds,)] = await hooks.rows(
        "select extract(epoch from due_at - attempted_at)::float8 from webhook_deliveries where state = 'pending'"
    )
    assert seconds == pytest.approx(3600, abs=5)


async def test_while_all_webhooks_are_disabled_the_log_is_not_read(hooks: Hooks, anna: Caller) -> None:
    webhook = await hooks.create(["message.posted"])
    conversation = (await anna.open(body="1"))["id"]
    await hooks.settle()
    await hooks.shop.call("PATCH", f"/webhooks/{webhook['id']}", {"enabled": False})
    await anna.post(conversation, "2")
    await hooks.number()
    read, holder = await hooks.rows("select position from webhook_progress"), uuid4()
    await hooks.execute("update webhook_progress set holder = :holder", holder=holder)
    assert await read_round(hooks.sessions, connection_provider(hooks.engine), holder) is False
    assert await hooks.rows("select position from webhook_progress") == read
    await hooks.execute("update webhook_progress set holder = null")
    await hooks.shop.call("PATCH", f"/webhooks/{webhook['id']}", {"enabled": True})
    await anna.post(conversation, "3")
    await hooks.settle()
    assert by_conversation(hooks.receiver.accepted) == {conversation: [1, 3]}


async def test_outcomes_of_retries_and_erased_answers_lock_deliveries_in_one_order(hooks: Hooks, anna: Caller) -> None:
    await hooks.create(["message.posted"])
    for _ in range(2):
        await anna.open(body="Hello?")
    hooks.receiver.answer = lambda _: Answer(500, b"Out of order")
    await hooks.run_until(lambda: len(hooks.receiver.received) == 2, (0, 60))
    rows = await hooks.rows(f"select {', '.join(Claimed._fields)} from webhook_deliveries order by id desc")  # noqa: S608 - constants
    assert [row[-1] for row in rows] == [1, 1]
    holder = uuid4()
    await hooks.execute("update webhook_progress set holder = :holder", holder=holder)
    results = [Result(Claimed(*row), Outcome(204)) for row in rows]
    lock = text("select id from webhook_deliveries where id = :id for update nowait")
    async with transaction(hooks.sessions) as removal:
        await removal.execute(lock, {"id": rows[1][0]})
        recording = await waiting_for_a_lock(hooks.sessions, record_results(hooks.sessions, holder, results, (0, 60)))
        await removal.execute(lock, {"id": rows[0][0]})  # the later one is free, so neither waits for the other
    assert (await recording).kept


async def test_two_dispatchers_share_nothing_and_one_that_was_frozen_records_nothing(
    hooks: Hooks, anna: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "IDLE_EVERY", 0.05)
    await hooks.create(["message.posted"])
    conversation = (await anna.open(body="1"))["id"]
    for number in range(2, 6):
        await anna.post(conversation, str(number))
    async with hooks.dispatching(), hooks.dispatching():
        await eventually(lambda: len(hooks.receiver.accepted) == 5)
    assert by_conversation(hooks.receiver.received) == {conversation: [1, 2, 3, 4, 5]}
    assert await hooks.rows("select holder from webhook_progress") == [(None,)], "it is released at the end"

    await anna.post(conversation, "6")
    hooks.receiver.answer = lambda _: Answer(delay=0.5)
    async with hooks.dispatching():
        await eventually(lambda: len(hooks.receiver.received) == 6)
        another = "holder = gen_random_uuid(), held_until = clock_timestamp() + interval '1 day'"
        await hooks.execute(f"update webhook_progress set {another}")  # noqa: S608 - a constant
        await eventually(lambda: len(hooks.receiver.accepted) == 6)
    assert await hooks.rows("select state, attempts from webhook_deliveries order by id desc limit 1") == [
        ("pending", 0)
    ]


async def test_all_types_are_known(hooks: Hooks) -> None:
    assert (await hooks.create())["types"] == ALL_TYPES
