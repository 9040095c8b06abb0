"""The status of emails, from the notifications service's log to the timeline."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import func, select, text, update

from services.conversations.api.routes.stream import event_renderer
from services.conversations.emails import feed_client, follower, progress
from services.conversations.emails.follower import follow_round
from services.conversations.event_log.reader import Entry
from services.conversations.models import ConversationEntry, LoggedEvent, NotificationsCursor
from services.conversations.rules import Side
from services.notifications.delivery.operations import retry_email
from services.notifications.delivery.sender import drain
from services.notifications.models import Email
from services.notifications.settings import EmailSettings
from shared.database.transactions import SessionFactory, transaction
from shared.event_log.sequencer import rotate_epoch
from shared.notifications_feed import EmailStatus, EmailStop, LoggedType, LogPage
from shared.notifications_feed import LoggedEvent as FeedEvent
from shared.process import failpoints
from tests.helpers.smtp_server import smtp_server
from tests.service.conftest import FEED_SECRET
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import email_settings
from tests.service.helpers.sweeping import Sweeper, answer
from tests.service.messaging.test_deleting import waiting_for_a_lock

NO_SMTP = email_settings("postgresql://unused", smtp_url=None)


@dataclass
class Following:
    """The jobs' loop without its pauses, on a real notifications API."""

    sweeping: Sweeper
    feed: httpx2.AsyncClient

    @property
    def sessions(self) -> SessionFactory:
        return self.sweeping.conversations

    async def follow(self) -> int:
        """Read the log to its end; return how many entries have changed."""
        changed, more = 0, True
        while more:
            done = await follow_round(self.sessions, self.feed)
            changed, more = changed + done.changed, done.more
        return changed

    async def deliver(self, settings: EmailSettings) -> None:
        """Handle all events in the notifications service, and send what is due."""
        await self.sweeping.number()
        self.sweeping.settings = settings
        await self.sweeping.catch_up_fully()
        await drain(self.sweeping.notifications, settings, asyncio.Event())

    async def entries(self) -> list[ConversationEntry]:
        async with self.sessions() as session:
            query = select(ConversationEntry).where(ConversationEntry.kind == "email")
            return list(await session.scalars(query.order_by(ConversationEntry.after_number, ConversationEntry.id)))

    async def states(self) -> list[str]:
        return [entry.data["state"] for entry in await self.entries()]

    async def events(self) -> list[dict[str, Any]]:
        async with self.sessions() as session:
            query = select(LoggedEvent.payload).where(
                LoggedEvent.type == "email.updated", LoggedEvent.audience == "admin"
            )
            payloads = await session.scalars(query.order_by(LoggedEvent.seq))
            return [email for payload in payloads if payload for email in payload["emails"]]


@pytest.fixture
async def following(sweeping: Sweeper, notifications_api: httpx2.AsyncClient) -> AsyncIterator[Following]:
    transport = notifications_api._transport  # noqa: SLF001 - the same application; the reader needs other headers
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://chats.test", headers={"Authorization": f"Bearer {FEED_SECRET}"}
    ) as feed:
        yield Following(sweeping, feed)


async def timeline(sam: Caller, conversation: str, **params: Any) -> dict[str, Any]:
    answered = await sam.call("GET", f"/conversations/{conversation}/timeline", params=params)
    body: dict[str, Any] = answered.json()
    return body


async def test_a_sent_email_is_in_the_timeline_after_its_newest_message_and_told_to_admins(
    following: Following, anna: Caller, sam: Caller
) -> None:
    await following.follow()
    conversation = await answer(anna, sam, times=2)
    async with smtp_server() as server:
        await following.deliver(email_settings("postgresql://unused", smtp_url=f"smtp://127.0.0.1:{server.port}"))
    await sam.post(conversation)
    assert await following.follow() == 1
    items = (await timeline(sam, conversation))["items"]
    kinds = [item["kind"] for item in items if item["kind"] != "assignment"]
    assert kinds == ["message", "message", "email", "message"]
    status = next(item for item in items if item["kind"] == "email")
    assert status["at"] == status["state_at"]
    assert {name: status[name] for name in ("actor", "to", "state", "reason", "numbers")} == {
        "actor": None,
        "to": "customer",
        "state": "sent",
        "reason": None,
        "numbers": [1, 2],
    }
    [told] = await following.events()
    assert told == {"conversation_id": conversation, "email_id": status["id"], "state": "sent"}


async def test_emails_that_end_together_are_one_event_of_each_log_and_several_of_a_stream(
    following: Following, anna: Caller, sam: Caller
) -> None:
    await following.follow()
    conversations = [await answer(anna, sam) for _ in range(3)]
    await following.deliver(NO_SMTP)
    assert await following.follow() == 3
    async with following.sweeping.notifications() as session:
        assert await session.scalar(text("select count(*) from events")) == 1
    told = await following.events()
    assert sorted(email["conversation_id"] for email in told) == sorted(conversations)
    async with following.sessions() as session:
        [event] = (await session.scalars(select(LoggedEvent).where(LoggedEvent.type == "email.updated"))).all()
        assert event.position is None
    entry = Entry(1, event.type, event.user_id, event.conversation_id, event.payload, event.audience)
    rendered = event_renderer("Shop")(entry, None, Side.ADMIN)
    assert [json.loads(data) for data in rendered] == told


async def test_an_email_that_fails_and_is_retried_keeps_its_place(
    following: Following, anna: Caller, sam: Caller
) -> None:
    await following.follow()
    conversation = await answer(anna, sam)
    async with smtp_server(rcpt=["550 5.1.1 nobody here"]) as server:
        settings = email_settings("postgresql://unused", smtp_url=f"smtp://127.0.0.1:{server.port}")
        await following.deliver(settings)
        await following.follow()
        [entry] = await following.entries()
        assert (entry.data["state"], entry.data["reason"]) == ("failed", "rejected")
        async with transaction(following.sweeping.notifications) as session:
            await retry_email(session, entry.id)
        await following.follow()
        assert await following.states() == ["scheduled"]
        await following.deliver(settings)
        await following.follow()
    [item] = [item for item in (await timeline(sam, conversation))["items"] if item["kind"] == "email"]
    assert (item["state"], item["reason"]) == ("sent", None)
    assert item["at"] < item["state_at"], "its place is that of the first state"
    assert [told["state"] for told in await following.events()] == ["failed", "scheduled", "sent"]


async def test_reading_the_same_events_again_changes_nothing(following: Following, anna: Caller, sam: Caller) -> None:
    await following.follow()
    await answer(anna, sam)
    await following.deliver(NO_SMTP)
    assert await following.follow() == 1
    async with transaction(following.sessions) as session:
        await session.execute(update(NotificationsCursor).values(position=0))
    assert await following.follow() == 0
    assert await following.states() == ["suppressed"]
    assert len(await following.events()) == 1


async def test_emails_from_before_are_listed_without_events(following: Following, anna: Caller, sam: Caller) -> None:
    await answer(anna, sam)
    await following.deliver(NO_SMTP)
    assert await following.follow() == 1
    assert await following.states() == ["suppressed"]
    assert await following.events() == []


@pytest.mark.parametrize("lost", ["purged", "epoch", "types"])
async def test_a_lost_place_in_the_log_is_made_up_for_by_a_list(
    following: Following, anna: Caller, sam: Caller, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.conversations.emails.feed_client.PAGE", 2)
    await following.follow()
    for _ in range(5):
        await answer(anna, sam)
    await following.deliver(NO_SMTP)
    await feed_client.read_end(following.feed, follower.TYPES)  # numbers the events
    async with transaction(following.sweeping.notifications) as session:
        if lost == "epoch":
            await rotate_epoch(session)
        elif lost == "purged":
            await session.execute(text("delete from events where seq < (select max(seq) from events)"))
    if lost == "types":
        async with transaction(following.sessions) as session:
            await session.execute(update(NotificationsCursor).values(types=[]))
    assert await following.follow() == 5
    assert await following.states() == ["suppressed"] * 5
    await answer(anna, sam)
    await following.deliver(NO_SMTP)
    assert await following.follow() == 1, "the cursor is at the end of the log again"


async def test_a_restored_notifications_database_corrects_what_was_known(
    following: Following, anna: Caller, sam: Caller
) -> None:
    await following.follow()
    await answer(anna, sam)
    await following.deliver(NO_SMTP)
    await following.follow()
    async with transaction(following.sweeping.notifications) as session:
        await session.execute(update(Email).values(state="failed", reason="restored"))
        await session.execute(text("delete from events"))
        await session.execute(text("update feed set head = 0"))
    assert await following.follow() == 1
    assert await following.states() == ["failed"]


async def test_no_entry_outlives_its_conversation(following: Following, anna: Caller, sam: Caller) -> None:
    await following.follow()
    conversation = await answer(anna, sam)
    await following.deliver(NO_SMTP)
    await sam.edit(conversation, status="CLOSED")
    await sam.call("DELETE", f"/conversations/{conversation}")
    assert await following.follow() == 0
    assert await following.entries() == []


async def test_conversations_are_locked_in_the_order_of_changes_in_bulk(following: Following, anna: Caller) -> None:
    """Else each could wait for the other."""
    first, second = [UUID((await anna.open(body="Hello?"))["id"]) for _ in range(2)]
    await following.follow()
    async with following.sessions() as session:
        seen = (await session.scalars(select(NotificationsCursor))).one()
    assert seen.epoch is not None
    ended = EmailStatus(
        email_id=uuid4(), conversation_id=second, to="customer", state="sent", reason=None, numbers=[1], at=None
    )
    stop = EmailStop(stop_id=uuid4(), user_id="anna", conversation_id=first, reason="muted")
    events = [
        FeedEvent(position=seen.position, type=type_, subject_id=stop.stop_id, payload=payload.model_dump())
        for type_, payload in ((LoggedType.EMAIL_UPDATED, ended), (LoggedType.STOP_UPDATED, stop))
    ]
    page = LogPage(epoch=seen.epoch, head=seen.position, end=seen.position, items=events)
    lock = text("select from conversations where id = :id for update nowait")
    async with transaction(following.sessions) as changing:
        await changing.execute(lock, {"id": first})
        applying = await waiting_for_a_lock(following.sessions, follower._apply(following.sessions, seen, page))  # noqa: SLF001 - the order of events is by chance
        await changing.execute(lock, {"id": second})
    assert await applying == 1


async def test_an_entry_keeps_its_numbers_when_the_message_is_removed(
    following: Following, anna: Caller, sam: Caller
) -> None:
    await following.follow()
    conversation = (await anna.open())["id"]
    message = await sam.post(conversation)
    async with smtp_server(rcpt=["550 5.1.1 nobody here"]) as server:
        settings = email_settings("postgresql://unused", smtp_url=f"smtp://127.0.0.1:{server.port}")
        await following.deliver(settings)
    await following.follow()
    await sam.call("DELETE", f"/conversations/{conversation}/messages/{message['id']}")
    await following.deliver(settings)
    await following.follow()
    [entry] = await following.entries()
    assert (entry.data["state"], entry.data["reason"], entry.data["numbers"]) == ("cancelled", "deleted", [1])


async def test_two_readers_write_each_status_once(following: Following, anna: Caller, sam: Caller) -> None:
    await following.follow()
    for _ in range(3):
        await answer(anna, sam)
    await following.deliver(NO_SMTP)
    rounds = await asyncio.gather(*(follow_round(following.sessions, following.feed) for _ in range(4)))
    assert sum(done.changed for done in rounds) == 3
    assert len(await following.events()) == 3


class Killed(BaseException):
    """The process has died."""


@pytest.mark.parametrize(
    "point", ["statuses-read", "statuses-written", "statuses-committed", "statuses-listed", "log-numbered"]
)
async def test_a_reader_that_dies_anywhere_loses_nothing_and_writes_nothing_twice(
    following: Following, anna: Caller, sam: Caller, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if point != "statuses-listed":
        await following.follow()
    await answer(anna, sam)
    await following.deliver(NO_SMTP)

    def die(name: str) -> None:
        if name == point:
            raise Killed

    monkeypatch.setattr(failpoints, "armed", die)
    with pytest.raises(Killed):
        await following.follow()
    monkeypatch.setattr(failpoints, "armed", None)
    await following.follow()
    assert await following.states() == ["suppressed"]
    assert len(await following.events()) == (0 if point == "statuses-listed" else 1)


async def test_an_event_of_a_deleted_email_is_passed(following: Following) -> None:
    await following.follow()
    async with transaction(following.sweeping.notifications) as session:
        await session.execute(text("insert into events (type, subject_id) values ('email.updated', gen_random_uuid())"))
    assert await following.follow() == 0
    async with following.sessions() as session:
        assert (await session.get_one(NotificationsCursor, True)).position == 1


async def test_while_the_log_is_not_read_the_timeline_says_until_when_emails_are_known(
    following: Following, anna: Caller, sam: Caller
) -> None:
    await following.follow()
    conversation = await answer(anna, sam)
    assert (await timeline(sam, conversation))["emails_known_until"] is None
    async with transaction(following.sessions) as session:
        await session.execute(
            update(NotificationsCursor).values(
                caught_up_at=func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 3)
            )
        )
    assert (await timeline(sam, conversation, limit=1))["emails_known_until"] is not None
    async with following.sessions() as session:
        assert 170 < (await progress.read_state(session)).lag < 200
    await following.follow()
    assert (await timeline(sam, conversation))["emails_known_until"] is None


async def test_the_pages_of_a_timeline_contain_each_email_once(following: Following, anna: Caller, sam: Caller) -> None:
    await following.follow()
    conversation = await answer(anna, sam)
    await following.deliver(NO_SMTP)
    await sam.call("POST", f"/conversations/{conversation}/notes", json={"body": "A note."})
    await sam.post(conversation)
    await following.deliver(NO_SMTP)
    await following.follow()
    for order in ("asc", "desc"):
        kinds, cursor = [], None
        while True:
            page = await timeline(sam, conversation, order=order, limit=1, **({"cursor": cursor} if cursor else {}))
            items = [item for item in page["items"] if item["kind"] != "assignment"]
            kinds += [(item["kind"], item.get("numbers")) for item in items]
            if (cursor := page["next_cursor"]) is None:
                break
        expected = [("message", None), ("email", [1]), ("note", None), ("message", None), ("email", [2])]
        assert kinds == (expected if order == "asc" else expected[::-1])


async def test_customers_see_nothing_of_emails(following: Following, anna: Caller, sam: Caller) -> None:
    await following.follow()
    conversation = await answer(anna, sam)
    await following.deliver(NO_SMTP)
    await following.follow()
    seen = await anna.get(f"/conversations/{conversation}")
    assert "suppressed" not in str(seen)
    async with following.sessions() as session:
        audience = await session.scalar(select(LoggedEvent.audience).where(LoggedEvent.type == "email.updated"))
    assert audience == "admin"
    assert UUID(conversation)
