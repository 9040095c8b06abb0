"""What becomes of a customer's notifications and emails when the store merges them into another one."""

import asyncio
import itertools
from email import message_from_bytes, policy
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import select, text

from services.notifications.delivery.claiming import claim_emails
from services.notifications.delivery.muting import Wish, set_muting
from services.notifications.event_consumer.consumer import receive_events
from services.notifications.event_consumer.handlers import handle_events
from services.notifications.models import Email, Mute, Notification
from shared.database.transactions import SessionFactory, transaction
from shared.events import Event, EventType, UserChanged
from shared.people import Person
from tests.helpers.waiting import eventually
from tests.service.conftest import As
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import email_settings, event, posted, receive, user_changed
from tests.service.helpers.sweeping import Sweeper

SETTINGS = email_settings("postgresql://unused")
BEN = Person(id="ben", version=1, name="Ben", email="ben@customer.test")


def merged(old: str = "anna", into: str = "ben") -> Event:
    alias = Person(id=old, version=9, deleted=True, merged_into=into)
    return event(EventType.USER_MERGED, UserChanged(person=alias))


async def owners(sessions: SessionFactory) -> set[tuple[str, str]]:
    async with sessions() as session:
        records, emails = select(Notification.user_id), select(Email.recipient_id)
        return {
            (kind, row)
            for kind, query in (("record", records), ("email", emails))
            for row in await session.scalars(query)
        }


async def claim(sessions: SessionFactory) -> list[str]:
    """Return the addresses of the emails that are due."""
    async with transaction(sessions) as session:
        claimed = await claim_emails(session, SETTINGS) or []
    emails = [message_from_bytes(email.content, policy=policy.default) for email in claimed]
    return [email["To"].addresses[0].addr_spec for email in emails]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_notifications_and_unsent_emails_are_the_persons_in_any_order(
    notifications: SessionFactory, order: tuple[int, ...]
) -> None:
    events = [posted(uuid4(), 1), merged(), user_changed(BEN)]
    await receive(notifications, SETTINGS, *(events[index] for index in order), events[1])
    assert await owners(notifications) == {("record", "ben"), ("email", "ben")}
    if order.index(0) > order.index(1) and order.index(2) > order.index(0):
        return  # an email to somebody without an address is not sent later
    assert await claim(notifications) == ["ben@customer.test"]


async def test_events_that_are_read_together_have_the_same_effect(notifications: SessionFactory) -> None:
    events = [posted(uuid4(), 1), user_changed(BEN), merged(), posted(uuid4(), 1)]
    await receive_events(notifications, events, SETTINGS, repeated=False)
    assert await owners(notifications) == {("record", "ben"), ("email", "ben")}
    async with notifications() as session:
        rows = await session.execute(text("select id, name, email from people where id in ('anna', 'ben') order by id"))
        assert rows.all() == [("anna", None, None), ("ben", "Ben", "ben@customer.test")]


async def test_two_open_emails_about_a_conversation_are_both_sent(notifications: SessionFactory) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, user_changed(BEN), posted(conversation, 1))
    await receive(notifications, SETTINGS, posted(conversation, 2, customer=BEN), merged())
    await receive(notifications, SETTINGS, posted(conversation, 3, customer=BEN))
    assert await claim(notifications) == ["ben@customer.test"] * 2
    async with notifications() as session:
        numbers = "select array_agg(number order by number) from email_messages group by email_id order by 1"
        assert list(await session.scalars(text(numbers))) == [[1], [2, 3]]


async def test_a_message_that_is_being_handled_is_not_missed(notifications: SessionFactory) -> None:
    await receive(notifications, SETTINGS, user_changed(BEN))
    async with transaction(notifications) as session:
        await handle_events(session, [posted(uuid4(), 1)], SETTINGS)
        handling = asyncio.ensure_future(receive(notifications, SETTINGS, merged()))

        async def waits() -> bool:
            async with notifications() as other:
                return bool(await other.scalar(text("select count(*) from pg_locks where not granted")))

        await eventually(waits)
    await handling
    assert await owners(notifications) == {("record", "ben"), ("email", "ben")}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_chain_leads_to_its_end_in_any_order(notifications: SessionFactory, order: tuple[int, ...]) -> None:
    links = [merged("anna", "ben"), merged("ben", "cora")]
    await receive(notifications, SETTINGS, posted(uuid4(), 1), *(links[index] for index in order), posted(uuid4(), 1))
    assert await owners(notifications) == {("record", "cora"), ("email", "cora")}


async def test_the_stricter_mute_wins(notifications: SessionFactory) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, user_changed(BEN), posted(conversation, 1), posted(uuid4(), 1, customer=BEN))
    async with transaction(notifications) as session:
        for user_id, about in (("anna", None), ("ben", conversation), ("anna", conversation)):
            await set_muting(session, user_id, about, Wish.CONVERSATION if about else Wish.EVERYTHING)
    await receive(notifications, SETTINGS, merged())
    assert await claim(notifications) == []
    async with notifications() as session:
        rows = await session.execute(select(Mute.user_id, Mute.conversation_id))
        assert {tuple(row) for row in rows} == {("ben", None), ("ben", conversation)}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_erasing_the_person_erases_the_old_ids_emails(
    notifications: SessionFactory, order: tuple[int, ...]
) -> None:
    gone = [merged(), user_changed(Person(id="ben", version=2, deleted=True))]
    await receive(notifications, SETTINGS, user_changed(BEN), posted(uuid4(), 1))
    assert await claim(notifications) == ["anna@customer.test"]
    await receive(notifications, SETTINGS, *(gone[index] for index in order))
    async with notifications() as session:
        left = (await session.execute(text("select people::text, emails::text from people, emails"))).all()
    assert "customer.test" not in str(left)


async def test_callers_with_the_old_id_act_as_the_person(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient, acting_as: As
) -> None:
    await receive(notifications, SETTINGS, user_changed(BEN), posted(uuid4(), 1), merged())
    for who in ("anna", "ben"):
        caller = Caller(notifications_api, "/api/v1/notifications", acting_as(who))
        assert await caller.get("/unread") == {"unread": 1}
        [found] = (await caller.get(""))["items"]
    caller = Caller(notifications_api, "/api/v1/notifications", acting_as("anna"))
    assert (await caller.call("POST", f"/{found['id']}/read")).status_code == 204
    assert await caller.get("/unread") == {"unread": 0}


async def test_the_services_merge_two_customers_together(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller, sweeping: Sweeper
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await ben.open(body="Hello, too?")
    await shop.call("PUT", "/users/ben", {"name": "Ben", "email": "ben@customer.test"})
    await sam.post(conversation, "Yes?")
    await sweeping.number()
    await sweeping.catch_up_fully()
    assert await owners(sweeping.notifications) == {("record", "anna"), ("email", "anna")}
    await shop.call("POST", "/users/anna/merge", {"into": "ben"})
    await sam.post(conversation, "Are you there?")
    await sweeping.number()
    await sweeping.catch_up_fully()
    assert await owners(sweeping.notifications) == {("record", "ben"), ("email", "ben")}
    assert await claim(sweeping.notifications) == ["ben@customer.test"]
