"""The log of what becomes of emails: what is logged, and how it is read."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import func, text, update

from services.notifications.delivery.operations import retry_email
from services.notifications.delivery.sender import drain
from services.notifications.models import Email
from services.notifications.retention import purge_events
from services.notifications.settings import EmailSettings
from shared.database.transactions import SessionFactory, transaction
from shared.event_log.sequencer import rotate_epoch
from tests.helpers.smtp_server import SmtpServer, smtp_server
from tests.service.conftest import FEED_SECRET
from tests.service.helpers.callers import problem
from tests.service.helpers.event_factory import ANNA, deleted, email_settings, posted, read, receive, removed

FEED = {"Authorization": f"Bearer {FEED_SECRET}"}
SETTINGS = email_settings("postgresql://unused")


def settings_for(server: SmtpServer) -> EmailSettings:
    return email_settings("postgresql://unused", smtp_url=SecretStr(f"smtp://127.0.0.1:{server.port}"))


async def send(sessions: SessionFactory, settings: EmailSettings) -> None:
    await drain(sessions, settings, asyncio.Event())


async def page(api: httpx2.AsyncClient, after: int = 0, **params: Any) -> dict[str, Any]:
    answer = await api.get("/internal/events", params={"after": after, "type": "email.updated", **params}, headers=FEED)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def statuses(api: httpx2.AsyncClient, after: int = 0) -> list[tuple[int, str, str | None, list[int]]]:
    items = (await page(api, after))["items"]
    return [
        (item["position"], item["payload"]["state"], item["payload"]["reason"], item["payload"]["numbers"])
        for item in items
    ]


async def listed(api: httpx2.AsyncClient, **params: Any) -> list[list[int]]:
    """Return the numbers in each email of the list, which is read page by page."""
    found, after = [], None
    while True:
        sent = params | ({"after": after} if after else {})
        body = (await api.get("/internal/emails", params=sent, headers=FEED)).json()
        found += [status["numbers"] for status in body["items"]]
        if (after := body["last"]) is None:
            return found


async def test_the_first_failed_attempt_and_the_status_of_an_email_are_logged_and_no_attempt_in_between(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    conversation = uuid4()
    async with smtp_server(rcpt=["450 4.2.0 greylisted"] * 3) as server:
        settings = settings_for(server)
        await receive(notifications, settings, posted(conversation, 1), posted(conversation, 2))
        await send(notifications, settings)
        assert await statuses(notifications_api) == [(1, "scheduled", None, [1, 2])]
        for _ in range(3):
            async with transaction(notifications) as session:
                due = func.clock_timestamp() - timedelta(seconds=1)
                await session.execute(update(Email).values(next_attempt_at=due))
            await send(notifications, settings)
    [item] = (await page(notifications_api, after=1))["items"]
    status = item["payload"]
    assert UUID(status.pop("email_id"))
    assert status.pop("at") is not None
    assert status == {
        "conversation_id": str(conversation),
        "to": "customer",
        "state": "sent",
        "reason": None,
        "numbers": [1, 2],
    }
    assert (item["position"], item["type"]) == (2, "email.updated")


async def test_an_email_that_waits_for_its_recipients_limit_is_logged_once(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    async with smtp_server() as server:
        settings = settings_for(server).model_copy(update={"limit_mails_per_10_minutes": 1})
        await receive(notifications, settings, posted(uuid4(), 1))
        await send(notifications, settings)
        await receive(notifications, settings, posted(uuid4(), 2))
        for _ in range(2):
            async with transaction(notifications) as session:
                due = func.clock_timestamp() - timedelta(seconds=1)
                await session.execute(update(Email).values(next_attempt_at=due))
            await send(notifications, settings)
    assert await statuses(notifications_api) == [(1, "sent", None, [1]), (2, "scheduled", "rate-limited", [2])]


async def test_a_failed_email_that_is_retried_is_logged_again_with_its_state_of_now(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    async with smtp_server(rcpt=["550 5.1.1 nobody here"]) as server:
        settings = settings_for(server)
        await receive(notifications, settings, posted(uuid4(), 1))
        await send(notifications, settings)
        [item] = (await page(notifications_api))["items"]
        assert await statuses(notifications_api) == [(1, "failed", "rejected", [1])]
        async with transaction(notifications) as session:
            await retry_email(session, UUID(item["payload"]["email_id"]))
        assert await statuses(notifications_api, after=1) == [(2, "scheduled", None, [1])]
        await send(notifications, settings)
    assert await statuses(notifications_api) == [(n, "sent", None, [1]) for n in (1, 2, 3)]


async def test_an_email_that_will_not_be_sent_is_logged_but_not_one_that_was_read(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    nobody = ANNA.model_copy(update={"email": None, "version": 2})
    first, second, third, message = uuid4(), uuid4(), uuid4(), posted(uuid4(), 4)
    await receive(notifications, SETTINGS, posted(first, 2), read(first, 2))
    assert await statuses(notifications_api) == []
    assert await listed(notifications_api) == []
    await receive(notifications, SETTINGS, posted(second, 3), deleted(second), message, removed(message))
    await receive(notifications, SETTINGS, posted(third, 5, customer=nobody))
    assert await statuses(notifications_api) == [
        (1, "cancelled", "deleted", []),
        (2, "cancelled", "deleted", []),
        (3, "suppressed", "no-address", [5]),
    ]


async def test_an_email_that_has_waited_for_another_attempt_is_logged_when_it_is_read(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    conversation = uuid4()
    async with smtp_server(rcpt=["450 4.2.0 greylisted"]) as server:
        settings = settings_for(server)
        await receive(notifications, settings, posted(conversation, 1))
        await send(notifications, settings)
    await receive(notifications, settings, read(conversation, 1))
    assert await statuses(notifications_api, after=1) == [(2, "cancelled", "read", [1])]
    assert await listed(notifications_api) == [[1]]


async def test_a_page_ends_where_it_was_read_even_without_events_of_the_type(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    async with transaction(notifications) as session:
        await session.execute(
            text("insert into events (type, subject_id) select 'new', gen_random_uuid() from generate_series(1, 3)")
        )
    read = await page(notifications_api, limit=2)
    assert (read["items"], read["end"], read["head"]) == ([], 2, 3)
    read = await page(notifications_api, after=2, reader="conversations")
    assert (read["items"], read["end"]) == ([], 3)
    assert (await page(notifications_api, after=3, reader="conversations"))["end"] == 3
    async with notifications() as session:
        assert await session.scalar(text("select position from feed_readers")) == 3


async def test_events_are_purged_after_the_retention_and_a_reader_before_them_is_told(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    async with transaction(notifications) as session:
        await session.execute(
            text("""
                insert into events (type, subject_id, numbered_at)
                select 'email.updated', gen_random_uuid(), clock_timestamp() from generate_series(1, 3)
            """)
        )
    async with transaction(notifications) as session:
        assert await purge_events(session, SETTINGS, size=10) == 0  # numbers them, though nobody has read
        await session.execute(
            text("update events set numbered_at = clock_timestamp() - interval '31 days' where position <= 2")
        )
    async with transaction(notifications) as session:
        assert await purge_events(session, SETTINGS, size=10) == 2
    answer = await notifications_api.get("/internal/events", params={"after": 1, "type": "email.updated"}, headers=FEED)
    assert problem(answer) == (410, "events-purged")
    assert [item["payload"] for item in (await page(notifications_api, after=2))["items"]] == [None]  # no such email


async def test_all_final_states_can_be_listed(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    nobody = ANNA.model_copy(update={"email": None, "version": 2})
    await receive(notifications, SETTINGS, *(posted(uuid4(), number, customer=nobody) for number in range(1, 6)))
    await receive(notifications, SETTINGS, posted(uuid4(), 9, customer=ANNA.model_copy(update={"version": 3})))
    found = await listed(notifications_api, limit=2)
    assert found == [[1], [2], [3], [4], [5]]


async def test_a_restored_database_starts_a_new_epoch(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    before = (await page(notifications_api))["epoch"]
    async with transaction(notifications) as session:
        await rotate_epoch(session)
    assert (await page(notifications_api))["epoch"] != before


@pytest.mark.parametrize("path", ["events?type=email.updated", "emails"])
@pytest.mark.parametrize("secret", [None, "", "Bearer", f"Bearer {FEED_SECRET}x", FEED_SECRET])
async def test_the_log_needs_the_secret(notifications_api: httpx2.AsyncClient, path: str, secret: str | None) -> None:
    answer = await notifications_api.get(f"/internal/{path}", headers={"Authorization": secret} if secret else {})
    assert problem(answer) == (401, "unauthenticated")
