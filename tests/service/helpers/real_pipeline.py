"""The product on a real PostgreSQL, with the methods of the model's `Pipeline`."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from email import message_from_bytes, policy
from typing import Any
from uuid import UUID

import httpx2

from services.conversations.app import create_app
from services.conversations.catalog.sync import UserUpsert, put_user
from services.conversations.event_log.sequencer import number_events
from services.conversations.messaging import commands
from services.conversations.messaging.opening import NewConversation, create_conversation
from services.conversations.messaging.posting import Post, post_message
from services.conversations.privacy import erasure
from services.conversations.rules import Side, Status
from services.conversations.settings import ApiSettings
from services.notifications import sweeper
from services.notifications.api.commands import read_notification
from services.notifications.delivery.attempts import release_expired
from services.notifications.delivery.claiming import claim_emails
from services.notifications.delivery.leases import ClaimedEmail, release, renew_lease
from services.notifications.delivery.operations import retry_email
from services.notifications.errors import NotRetriable
from services.notifications.event_consumer import parked
from services.notifications.event_consumer.consumer import receive_events
from services.notifications.mail.attempts import Attempt
from services.notifications.rules import MAX_JITTER, Audience
from shared.broker.celery_app import TASKS
from shared.database.errors import DATABASE_ERRORS
from shared.database.transactions import create_sessions, transaction, transaction_driver
from shared.events import Event
from shared.problems import NotFound, Unauthenticated
from tests.model.mailbox import DELAY, MAILS, RETRY_SECONDS, SUPPORT_EMAIL, UNCERTAIN_SECONDS, Content, Name
from tests.model.pipeline import ABANDONED, ANSWERED, KEEPS, REFUSED
from tests.model.store import ADMIN
from tests.service.conftest import FEED_SECRET, SECRET, empty_conversations, empty_notifications
from tests.service.helpers.attempt_factory import begin_data, record_attempt
from tests.service.helpers.connected import connect
from tests.service.helpers.event_factory import email_settings
from tests.service.helpers.faked_database import FakedDatabase, faked_database
from tests.service.helpers.real_view import EPOCH, read_view, since

SETTINGS = email_settings(
    "postgresql://unused",
    email_delay_seconds=DELAY[Audience.CUSTOMER],
    support_email_delay_seconds=DELAY[Audience.SUPPORT],
    support_email=SUPPORT_EMAIL,
    email_retry_seconds=RETRY_SECONDS,
    email_uncertain_seconds=UNCERTAIN_SECONDS,
    limit_mails_per_10_minutes=MAILS[0],
    limit_mails_per_day=MAILS[1],
)


@dataclass
class Holding:
    """An email that a process has claimed."""

    name: Name
    email: ClaimedEmail
    answer: Attempt | None = None


@asynccontextmanager
async def real_pipeline(urls: dict[str, str]) -> AsyncIterator["RealPipeline"]:
    """Connect the two services, on databases that are emptied at the end."""
    async with (
        faked_database(urls["conversations"]) as conversations,
        faked_database(urls["notifications"], inbox=True) as notifications,
    ):
        app = create_app(
            ApiSettings(conversations_database_url=urls["conversations"], auth_secret=[SECRET], feed_secret=FEED_SECRET)
        )
        connect(app, create_sessions(conversations.engine))
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app),
            base_url="http://chats.test",
            headers={"Authorization": f"Bearer {FEED_SECRET}"},
        ) as feed:
            pipeline = RealPipeline(conversations, notifications, feed)
            yield pipeline
            await pipeline.empty()


class RealPipeline:
    """The product, with the methods of the model's `Pipeline`."""

    def __init__(self, conversations: FakedDatabase, notifications: FakedDatabase, feed: httpx2.AsyncClient) -> None:
        self.databases = conversations, notifications
        self.conversations = create_sessions(conversations.engine)
        self.notifications = create_sessions(notifications.engine)
        self.feed = feed

    async def begin_anew(self) -> None:
        """Empty both databases and reset the clock."""
        await self.empty()
        self.talks: list[UUID] = []
        self.owners: list[str] = []
        self.counts: list[int] = []
        self.broker: list[Event] = []
        self.held: list[Holding] = []
        self.server: list[tuple[Name, str, Content]] = []
        self.message_ids: dict[Name, str] = {}
        await self.set_clock(0)
        await self.heal()
        await self.put_user(ADMIN, "sam@store.test", Side.ADMIN)

    async def empty(self) -> None:
        conversations, notifications = self.databases
        await empty_conversations(conversations.engine)
        await empty_notifications(notifications.engine)

    async def set_clock(self, now: int) -> None:
        """Set the time of both databases, in microseconds."""
        self.now = EPOCH + timedelta(microseconds=now)
        for database in self.databases:
            await database.set_clock(self.now)

    # What users do

    async def put_user(self, user: str, email: str | None, role: Side = Side.CUSTOMER) -> None:
        async with transaction(self.conversations) as session:
            await put_user(session, UserUpsert(user, {"email": email, "name": user.title()}, role))

    async def delete_user(self, user: str) -> None:
        async with transaction(self.conversations) as session:
            await erasure.delete_user(session, user)

    async def open(self, customer: str) -> bool:
        new = NewConversation(customer, "Where is my parcel?", customer, Side.CUSTOMER)
        try:
            async with transaction(self.conversations) as session:
                conversation, _ = await create_conversation(session, new)
        except Unauthenticated:
            return False
        self.talks.append(conversation)
        self.owners.append(customer)
        self.counts.append(0)
        return True

    async def post(self, conversation: int, side: Side) -> bool:
        sender = ADMIN if side is Side.ADMIN else self.owners[conversation]
        body = f"[{conversation}.{self.counts[conversation] + 1}]"
        try:
            async with transaction(self.conversations) as session:
                posted = await post_message(session, Post(self.talks[conversation], sender, side, body))
        except (NotFound, Unauthenticated):
            return False
        self.counts[conversation] += 1
        assert posted.number == self.counts[conversation]
        return True

    async def read(self, conversation: int, side: Side, up_to: int) -> bool:
        try:
            async with transaction(self.conversations) as session:
                await commands.mark_read(session, self.talks[conversation], side, up_to)
        except NotFound:
            return False
        return True

    async def delete(self, conversation: int) -> bool:
        try:
            async with transaction(self.conversations) as session:
                await commands.set_status(session, self.talks[conversation], Status.CLOSED, actor_id=ADMIN)
        except NotFound:
            return False
        async with transaction(self.conversations) as session:
            return await commands.delete_conversations(session, [self.talks[conversation]], actor_id="sam") == 1

    async def dismiss(self, conversation: int, number: int) -> None:
        record = await self.databases[1].connection.fetchrow(_RECORD, self.talks[conversation], number)
        assert record is not None
        async with transaction(self.notifications) as session:
            await read_notification(session, record["user_id"], record["id"], SETTINGS)

    async def retry_email(self, name: Name) -> None:
        audience, conversation, number = name
        email = await self.databases[1].connection.fetchval(_EMAIL, audience, self.talks[conversation], number)
        async with transaction(self.notifications) as session:
            await retry_email(session, email)

    async def retry_parked(self, event: int) -> str:
        event_id = await self._event(event)
        try:
            async with transaction(self.notifications) as session:
                await parked.retry_parked(session, event_id, SETTINGS)
        except NotRetriable:
            return "nothing kept"
        except DATABASE_ERRORS:
            return "died"
        return "done"

    # What happens to events

    async def number(self, size: int, *, published: bool) -> int:
        async with transaction(self.conversations) as session:
            numbered = await number_events(await transaction_driver(session), size=size)
        hints = [event for event in numbered if event.type in TASKS]
        self.broker += hints if published else []
        return len(hints)

    async def deliver(self, hint: int, *, kept: bool, repeated: bool) -> str:
        event = self.broker[hint] if kept else self.broker.pop(hint)
        try:
            done = await receive_events(self.notifications, [event], SETTINGS, repeated=repeated)
        except DATABASE_ERRORS:
            return "died"
        return "done" if done else "not yet"

    async def drop(self, hint: int) -> None:
        del self.broker[hint]

    async def flush(self) -> None:
        self.broker.clear()

    async def poison(self, event: int) -> None:
        await self.databases[1].poison(await self._event(event))

    async def heal(self) -> None:
        await self.databases[1].heal()

    async def catch_up(self) -> bool:
        with suppress(*DATABASE_ERRORS):
            await sweeper.catch_up(self.notifications, self.feed, SETTINGS, min_age=0)
        seen = await self.view()
        return bool(seen["cursor"] == seen["head"])

    # What happens to emails

    async def claim(self) -> list[Name]:
        async with transaction(self.notifications) as session:
            await release_expired(session, SETTINGS)
        async with transaction(self.notifications) as session:
            claimed = await claim_emails(session, SETTINGS) or []
        holdings = [Holding(await self._name(email.id), email) for email in claimed]
        holdings.sort(key=lambda holding: holding.name)
        self.held += holdings
        return [holding.name for holding in holdings]

    async def refuse(self, held: int, reply: str) -> None:
        await self._record(self.held.pop(held), REFUSED[reply])

    async def begin(self, held: int) -> bool:
        async with transaction(self.notifications) as session:
            begun = await begin_data(session, self.held[held].email)
        if not begun:
            await self._record(self.held.pop(held), ABANDONED)
        return begun

    async def answer(self, held: int, reply: str) -> None:
        holding = self.held[held]
        holding.answer = ANSWERED[reply]
        if reply in KEEPS:
            message_id, content = _content(holding)
            assert self.message_ids.setdefault(holding.name, message_id) == message_id
            self.server.append((holding.name, holding.email.to_address, content))

    async def record(self, held: int) -> None:
        holding = self.held.pop(held)
        assert holding.answer is not None
        await self._record(holding, holding.answer)

    async def renew(self, held: int) -> None:
        async with transaction(self.notifications) as session:
            await renew_lease(session, self.held[held].email.lease_id)

    async def hand_back(self, held: int) -> None:
        async with transaction(self.notifications) as session:
            await release(session, [self.held.pop(held).email])

    async def crash(self, held: int) -> None:
        del self.held[held]

    async def pass_time(self, seconds: int) -> None:
        await self.set_clock((since(self.now) or 0) + seconds * 1_000_000)

    # What can be observed

    async def view(self) -> dict[str, Any]:
        """Return the state as the model's `view` does, and the server's emails."""
        conversations, notifications = (database.connection for database in self.databases)
        seen = await read_view(conversations, notifications, [str(talk) for talk in self.talks])
        return seen | {"server": self.server}

    async def settle(self, email: UUID, due: int, planned: int) -> None:
        """Remove the jitter from an email's next attempt, after checking that the difference is within the jitter."""
        now = since(self.now) or 0
        assert planned <= due <= planned + (planned - now) * MAX_JITTER + 1, "due at another time"
        moment = EPOCH + timedelta(microseconds=planned)
        await self.databases[1].connection.execute(
            "update emails set next_attempt_at = $1 where id = $2", moment, email
        )

    async def _record(self, holding: Holding, attempt: Attempt) -> None:
        async with transaction(self.notifications) as session:
            await record_attempt(session, holding.email, attempt, SETTINGS, started_at=self.now)

    async def _event(self, index: int) -> UUID:
        event_id: UUID = await self.databases[0].connection.fetchval(
            "select id from events order by seq offset $1 limit 1", index
        )
        return event_id

    async def _name(self, email: UUID) -> Name:
        row = await self.databases[1].connection.fetchrow(_NAME, email)
        assert row is not None
        return Audience(row["audience"]), self.talks.index(row["conversation_id"]), row["number"]


def _content(holding: Holding) -> tuple[str, Content]:
    """Return an email's Message-ID, and the messages that it contains."""
    content = message_from_bytes(holding.email.content, policy=policy.default)
    body = content.get_body(("plain",))
    assert body is not None
    references: Sequence[tuple[str, str]] = re.findall(r"\[(\d+)\.(\d+)\]", body.get_content())
    assert {int(talk) for talk, _ in references} == {holding.name[1]}, "the email contains only its own conversation"
    return content["Message-ID"], tuple(int(number) for _, number in references)


_RECORD = "select user_id, id from notifications where conversation_id = $1 and number = $2"
_EMAIL = """
select emails.id from emails join email_messages on email_id = emails.id
where audience = $1 and emails.conversation_id = $2 and number = $3
"""
_NAME = """
select audience, emails.conversation_id, min(number) as number from emails join email_messages on email_id = emails.id
where emails.id = $1 group by emails.id
"""
