"""Replies to several conversations are taken in together, and posted in one call, each with its own outcome."""

import asyncio
from collections.abc import Sequence
from email.message import Message
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from services.conversations.api.routes import inbound, inbound_batch
from services.notifications.inbound import calls, intake
from services.notifications.inbound.binding import Bound, find_bound
from services.notifications.inbound.intake import Intake, TakenIn
from services.notifications.inbound.reception import UNKNOWN, InboundAddresses, Reception
from services.notifications.mail.reply_addresses import make_reply_address, read_reply_token
from shared.database.transactions import SessionFactory, connection_provider, transaction, transaction_driver
from tests.service.conftest import INBOUND_SECRET
from tests.service.helpers.recorded_statements import statements
from tests.service.inbound.rig import DOMAIN, SENDER, TRUSTED, Rig
from tests.service.inbound.test_posting import Killed, killed_at, with_files


@pytest.fixture
async def talks(rig: Rig) -> list[str]:
    """Deliver a reply to each of five conversations; return their ids."""
    ids = []
    for number in range(5):
        rig.conversation = ""
        await rig.send_email()
        await rig.run("update emails set state = 'sent', finished_at = now(), lease_id = null")
        await rig.deliver(rig.reply(f"Line {number}"))
        ids.append(rig.conversation)
    return ids


@pytest.fixture
async def answered(rig: Rig, notifications_engine: AsyncEngine) -> list[Bound]:
    """Send an email in each of three conversations; return what replies to them are for."""
    found = []
    for _ in range(3):
        rig.conversation = ""
        await rig.send_email()
        await rig.run("update emails set state = 'sent', finished_at = now(), lease_id = null")
        token = read_reply_token(rig.address.partition("@")[0])
        assert token is not None
        async with connection_provider(notifications_engine)() as connection:
            [bound] = await find_bound(connection, [token])
        assert bound is not None
        found.append(bound)
    return found


def reception_of(engine: AsyncEngine) -> Reception:
    """Return a reception of its own."""
    transact = partial(transaction, async_sessionmaker(engine))
    addresses = InboundAddresses(DOMAIN, INBOUND_SECRET, "https://store.test", TRUSTED)
    return Reception(connection_provider(engine), transact, addresses)


async def take_in(rig: Rig, engine: AsyncEngine, targets: Sequence[Bound]) -> list[Any]:
    """Take in a reply to each of some emails, all at the same time; return what became of them."""
    own, replies_ = Intake(connection_provider(engine), TRUSTED), []
    for number, target in enumerate(targets):
        content = rig.reply(f"Line {number}", **{"Message-ID": f"<{number}@customer.test>"}).as_bytes()
        replies_.append(own.take_in(target, SENDER, content))
    return await asyncio.gather(*replies_, return_exceptions=True)


async def test_emails_that_arrive_together_share_a_statement_those_of_a_conversation_do_not(
    rig: Rig, answered: list[Bound], notifications_engine: AsyncEngine
) -> None:
    async with statements(notifications_engine) as recorded:
        taken = await take_in(rig, notifications_engine, [*answered, answered[0]])
    assert all(isinstance(each, TakenIn) and each.is_new for each in taken)
    inserts = [statement for statement in recorded if "insert into inbound_emails" in statement.query]
    assert [len(statement.values[0]) for statement in inserts] == [3, 1]
    by_arrival = [row.same_as for row in await rig.rows() if row.conversation_id == answered[0].conversation_id]
    assert by_arrival == ["<0@customer.test>", "<3@customer.test>"]


async def test_an_email_that_cannot_be_stored_fails_alone(
    rig: Rig, answered: list[Bound], notifications_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same_email(message: Message, content: bytes) -> str:
        return "\ud800" if b"Line 1" in content else str(message["message-id"])

    monkeypatch.setattr(intake, "same_email", same_email)
    taken = await take_in(rig, notifications_engine, answered)
    assert [isinstance(each, TakenIn) for each in taken] == [True, False, True]
    # In any order: each was then saved over a connection of its own.
    assert {row.same_as for row in await rig.rows()} == {"<0@customer.test>", "<2@customer.test>"}


async def test_recipients_that_are_named_together_share_a_statement(
    rig: Rig, answered: list[Bound], notifications_engine: AsyncEngine
) -> None:
    reception = reception_of(notifications_engine)
    addresses = [make_reply_address(INBOUND_SECRET, bound.email_id or UUID(int=0), DOMAIN)[0] for bound in answered]
    forged = f"reply+{'a' * 52}@{DOMAIN}"
    of_another_secret = make_reply_address("another secret", answered[0].email_id or UUID(int=0), DOMAIN)[0]
    asked = [*addresses, forged, of_another_secret]
    async with statements(notifications_engine) as recorded:
        found = await asyncio.gather(*(reception.find(address, SENDER) for address in asked))
    assert found == [*answered, UNKNOWN, UNKNOWN]
    assert [len(statement.values[0]) for statement in recorded] == [5]
    assert len(rig.sent) == len(answered)


@pytest.fixture
def called(rig: Rig) -> list[str]:
    """Note which calls reach the conversations service."""
    paths: list[str] = []

    async def note(request: httpx2.Request) -> None:
        paths.append(request.url.path)

    rig.client.event_hooks = {"request": [note]}
    return paths


async def replies(rig: Rig, ids: list[str]) -> list[list[str]]:
    found = []
    for rig.conversation in ids:
        found.append([message["body"] for message in await rig.messages()])
    return found


async def test_they_go_in_one_call_and_count_as_read_up_to_what_they_answer(
    rig: Rig, talks: list[str], called: list[str], conversations: SessionFactory
) -> None:
    assert await rig.post() == 5
    assert called == ["/internal/inbound/batch"]
    assert await replies(rig, talks) == [[f"Line {number}"] for number in range(5)]
    async with transaction(conversations) as session:
        marks = (await session.execute(text("select read_by_user_number from conversations"))).scalars().all()
        reads = await session.scalar(text("select count(*) from events where type = 'conversation.read'"))
    assert (set(marks), reads) == ({2}, 5)


async def test_what_fails_for_one_of_them_fails_for_that_one_alone(
    rig: Rig, talks: list[str], conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = calls._message  # noqa: SLF001 - one of them is sent wrongly

    def break_one(row: Any, reply: calls.Reply, ids: Any) -> dict[str, Any]:
        return broken(row, reply, ids) | ({"read_up_to": -1} if reply.body == "Line 3" else {})

    monkeypatch.setattr(calls, "_message", break_one)
    async with transaction(conversations) as session:
        await session.execute(text("delete from conversations where id = :id"), {"id": talks[1]})
    await rig.post()
    states = dict(zip([str(row.conversation_id) for row in await rig.rows()], await rig.states(), strict=True))
    assert [states[talk] for talk in talks] == [
        ("posted", None),
        ("refused", "conversation-deleted"),
        ("posted", None),
        ("received", None),
        ("posted", None),
    ]


async def test_killed_after_the_call_each_is_posted_once(rig: Rig, talks: list[str]) -> None:
    with killed_at("inbound-posted"), pytest.raises(Killed):
        await rig.post()
    await rig.run("update inbound_emails set lease_until = now() - interval '1 second' where lease_until is not null")
    await rig.post()
    assert await replies(rig, talks) == [[f"Line {number}"] for number in range(5)]
    assert set(await rig.states()) == {("posted", None)}


async def test_an_older_release_without_this_call_gets_them_one_by_one(
    rig: Rig, talks: list[str], called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    post = rig.client.post

    async def older(path: str, **request: Any) -> httpx2.Response:
        if path.endswith("/batch"):
            return httpx2.Response(422)  # it takes `batch` for an id
        return await post(path, **request)

    monkeypatch.setattr(rig.client, "post", older)
    await rig.post()
    assert len(called) == 5
    assert await replies(rig, talks) == [[f"Line {number}"] for number in range(5)]


async def test_one_with_files_goes_beside_them(rig: Rig, talks: list[str], called: list[str]) -> None:
    rig.conversation = ""
    await rig.send_email()
    await rig.deliver(with_files(rig.reply("See the file."), "a.pdf"))
    await rig.post()
    assert called[0] == "/internal/inbound/batch"
    assert len(called) == 3
    assert set(await rig.states()) == {("posted", None)}
    assert len(talks) == 5


@pytest.mark.parametrize("body", [b"", b"[]", b'{"emails": 1}', b'{"emails": [' + b"1," * 50 + b"1]}"])
async def test_a_call_that_cannot_be_read_is_refused(rig: Rig, body: bytes) -> None:
    answer = await rig.client.post("/internal/inbound/batch", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation-failed")


async def test_each_outcome_has_its_status(rig: Rig) -> None:
    await rig.send_email()
    good = {"conversation_id": rig.conversation, "user_id": "anna", "body": "Hi", "attachments": [], "read_up_to": 1}
    items: list[Any] = [
        good | {"id": str(uuid4())},
        good | {"id": str(uuid4()), "user_id": "nobody"},
        good | {"id": str(uuid4()), "conversation_id": str(uuid4())},
        good | {"id": str(uuid4()), "body": ""},
        {"id": "x"},
        7,
    ]
    answer = await rig.client.post("/internal/inbound/batch", json={"emails": items})
    assert [outcome["status"] for outcome in answer.json()["outcomes"]] == [201, 403, 404, 422, 422, 422]
    again = await rig.client.post("/internal/inbound/batch", json={"emails": items[:1]})
    assert again.json()["outcomes"] == answer.json()["outcomes"][:1]


async def test_an_author_who_is_deleted_during_the_call_is_no_wrong_secret(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.send_email()
    good = {"conversation_id": rig.conversation, "user_id": "anna", "body": "Hi", "attachments": [], "read_up_to": 1}
    item = good | {"id": str(uuid4())}

    async def find_then_delete(request: Request, user_ids: Sequence[str]) -> Any:
        authors = await inbound.find_authors(request, user_ids)
        await rig.anna.api.delete("/api/v1/store/users/anna", headers=rig.shop_headers)
        return authors

    monkeypatch.setattr(inbound_batch, "find_authors", find_then_delete)
    for status in (503, 403):
        answer = await rig.client.post("/internal/inbound/batch", json={"emails": [item]})
        assert [outcome["status"] for outcome in answer.json()["outcomes"]] == [status]


async def test_an_email_is_counted_by_the_index_of_its_conversation(notifications: SessionFactory) -> None:
    async with transaction(notifications) as session:
        connection = await transaction_driver(session)
        await connection.execute("set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off")
        await connection.execute(f"prepare intake as {intake.TAKE_IN_SQL}")
        nothing = ", ".join(["null"] * 17)
        plan = "\n".join([row[0] for row in await connection.fetch(f"explain execute intake({nothing})")])
        await connection.execute("deallocate intake")
    assert "inbound_emails_conversation_id_same_as_key on inbound_emails" in plan
    assert not [name for name in ("inbound_emails_state_idx", "inbound_emails_pkey") if f"using {name}" in plan]
