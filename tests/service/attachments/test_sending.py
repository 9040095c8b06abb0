"""Files in messages: who may send them, what shows them, and their part in replays."""

import asyncio
from typing import Any

import pytest

from services.conversations.event_log.sequencer import number_events
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from tests.helpers.waiting import eventually
from tests.service.attachments.test_uploading import rows
from tests.service.helpers.callers import UNKNOWN_ID, Caller, problem
from tests.service.helpers.live_api import Live


async def send(caller: Caller, conversation: str, *files: Any, **fields: Any) -> Any:
    path, key = f"/conversations/{conversation}/messages", fields.pop("key", None)
    return await caller.call("POST", path, {"attachments": [file["id"] for file in files], **fields}, key=key)


async def test_a_message_may_be_files_alone_and_the_preview_names_the_first(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open())["id"]
    files = [await anna.upload(b"One", "one.txt"), await anna.upload(b"Two", "two.txt")]
    answer = await send(anna, conversation, *reversed(files))
    assert answer.status_code == 201, answer.text
    message = answer.json()
    assert (message["body"], message["via"]) == ("", "api")
    assert message["attachments"] == files[::-1]
    for caller in (anna, sam):
        assert (await caller.peek(conversation))["last_message"]["preview"] == "two.txt"
        [shown] = (await caller.get(f"/conversations/{conversation}/messages"))["items"]
        assert shown["attachments"] == files[::-1]
        for file in files:
            read = await caller.api.get(f"/api/v1/attachments/{file['id']}", headers=caller.headers)
            assert read.status_code == 200


@pytest.mark.parametrize("text", [None, " "])
async def test_every_way_to_write_takes_files(anna: Caller, sam: Caller, text: str | None) -> None:
    body, reply_body = ({} if text is None else {name: text} for name in ("body", "reply_body"))
    file = await anna.upload(name="first.txt")
    conversation = await anna.open(attachments=[file["id"]], **body)
    assert conversation["message_count"] == 1
    assert conversation["last_message"]["preview"] == "first.txt"
    reply = await sam.upload(name="reply.txt")
    edited = await sam.edit(conversation["id"], attachments=[reply["id"]], status="RESOLVED", **reply_body)
    assert (edited["status"], edited["last_message"]["preview"]) == ("RESOLVED", "reply.txt")
    both = await sam.upload(name="both.txt")
    assert (await sam.edit(conversation["id"], reply_body="See", attachments=[both["id"]]))["message_count"] == 3
    new = await sam.upload(name="new.txt")
    started = await sam.open(user_id="anna", attachments=[new["id"]], **body)
    assert started["last_message"]["preview"] == "new.txt"
    [posted] = (await anna.get(f"/conversations/{started['id']}/messages"))["items"]
    assert [shown["name"] for shown in posted["attachments"]] == ["new.txt"]


@pytest.mark.parametrize("fields", [{}, {"body": ""}, {"attachments": []}, {"body": " ", "attachments": []}])
async def test_a_message_needs_a_text_or_a_file(anna: Caller, sam: Caller, fields: Any) -> None:
    conversation = (await anna.open())["id"]
    for caller in (anna, sam):
        answer = await caller.call("POST", f"/conversations/{conversation}/messages", fields)
        assert problem(answer) == (422, "validation-failed")
        assert answer.json()["errors"][0]["loc"] == ["body", "body"]


async def test_at_most_ten_files_and_each_once(anna: Caller) -> None:
    conversation = (await anna.open())["id"]
    files = await asyncio.gather(*(anna.upload() for _ in range(10)))
    twice = await send(anna, conversation, files[0], files[0])
    assert problem(twice) == (422, "validation-failed")
    assert problem(await send(anna, conversation, *files, {"id": UNKNOWN_ID})) == (422, "validation-failed")
    assert (await send(anna, conversation, *files)).status_code == 201


async def test_a_file_that_is_not_ones_own_or_was_sent_is_refused_and_nothing_is_posted(
    anna: Caller, ben: Caller, sam: Caller
) -> None:
    conversation = (await anna.open())["id"]
    mine, theirs, admins = await anna.upload(), await ben.upload(), await sam.upload()
    for other in (theirs, admins, {"id": UNKNOWN_ID}):
        answer = await send(anna, conversation, mine, other, body="See")
        assert problem(answer) == (422, "validation-failed")
        assert answer.json()["errors"][0]["loc"] == ["body", "attachments", 1]
    assert (await anna.peek(conversation))["message_count"] == 0
    assert (await send(anna, conversation, mine)).status_code == 201
    assert problem(await send(anna, conversation, mine)) == (422, "validation-failed")
    # Refused before anything else is said about it.
    assert problem(await send(ben, conversation, theirs)) == (404, "not-found")


async def test_a_file_is_sent_once_even_by_two_messages_at_once(anna: Caller) -> None:
    conversations = [(await anna.open())["id"] for _ in range(4)]
    file = await anna.upload()
    answers = await asyncio.gather(*(send(anna, conversation, file) for conversation in conversations))
    assert sorted(answer.status_code for answer in answers) == [201, 422, 422, 422]


async def test_files_are_part_of_what_a_key_stands_for(anna: Caller, conversations: SessionFactory) -> None:
    conversation = (await anna.open())["id"]
    file, other = await anna.upload(), await anna.upload()
    first, again = await asyncio.gather(*(send(anna, conversation, file, body="See", key="k") for _ in range(2)))
    assert first.json() == again.json()
    assert first.json()["attachments"] == [file]
    assert {"idempotency-replayed" in answer.headers for answer in (first, again)} == {True, False}
    for files in ([], [other], [file, other]):
        answer = await send(anna, conversation, *files, body="See", key="k")
        assert problem(answer) == (422, "idempotency-key-reused")
    assert await rows(conversations) == 2


async def test_an_unseen_message_keeps_the_files_unsent(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello"))["id"]
    await sam.post(conversation)
    file = await anna.upload()
    assert problem(await send(anna, conversation, file, seen_number=1)) == (409, "newer-messages")
    assert (await send(anna, conversation, file, seen_number=2)).status_code == 201


async def test_a_message_without_files_says_so_and_how_it_came(anna: Caller) -> None:
    conversation = (await anna.open(body="Hello"))["id"]
    assert (await anna.post(conversation))["attachments"] == []
    shown = (await anna.get(f"/conversations/{conversation}/messages"))["items"]
    assert [(message["attachments"], message["via"]) for message in shown] == [([], "api")] * 2


async def test_events_name_the_files(anna: Caller, conversations: SessionFactory) -> None:
    conversation = (await anna.open(body="Hello"))["id"]
    file = await anna.upload(name="a.txt")
    await send(anna, conversation, file)
    async with transaction(conversations) as session:
        events = await number_events(await transaction_driver(session))
    plain, filed = [event.payload["message"] for event in events if event.payload and event.type == "message.posted"]
    assert plain["attachments"] == []
    assert filed["attachments"] == [{name: value for name, value in file.items() if value is not False}]


async def test_the_stream_shows_the_files(anna: Caller, live: Live) -> None:
    conversation = (await anna.open())["id"]
    file = await anna.upload(name="a.txt")
    async with live.reading(anna, after=await live.position()) as reader:
        await send(anna, conversation, file)
        await live.number()
        await eventually(lambda: "message.posted" in reader.names)
    [event] = reader.data_of("message.posted")
    assert event["message"]["attachments"] == [file]
    assert event["conversation"]["last_message"]["preview"] == "a.txt"
