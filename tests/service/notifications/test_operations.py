"""The API for operators."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import insert, text

from services.notifications.app import create_app
from services.notifications.models import InboxEntry
from services.notifications.settings import ApiSettings
from shared.database.transactions import SessionFactory, transaction
from tests.service.conftest import SECRET, As
from tests.service.helpers.connected import client_of, connect

PREFIX = "/api/v1/notifications"


@pytest.fixture
async def operator(
    notifications: SessionFactory, databases: dict[str, str], acting_as: As
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with the permission."""
    settings = ApiSettings(
        notifications_database_url=databases["notifications"],
        auth_secret=[SECRET],
        auth_permissions_claim="/chats/permissions",
    )
    app = create_app(settings)
    connect(app, notifications)
    headers = acting_as("olga", "admin", chats={"permissions": ["operations"]})
    async with client_of(app, headers=headers) as client:
        yield client


async def fail_emails(sessions: SessionFactory, *replies: tuple[str, str], hours: int = 0) -> None:
    """Add a failed email for each reason and last reply."""
    async with transaction(sessions) as session:
        for reason, reply in replies:
            email = (
                await session.execute(
                    text(
                        "insert into emails (audience, recipient_id, conversation_id, state, reason, due_at,"
                        " next_attempt_at, finished_at) values ('customer', 'anna', :conversation, 'failed', :reason,"
                        " now(), now(), now() - make_interval(hours => :hours)) returning id"
                    ),
                    {"conversation": uuid4(), "reason": reason, "hours": hours},
                )
            ).scalar_one()
            await session.execute(
                text(
                    "insert into email_tries (email_id, finished_at, outcome, phase, code, reply, process)"
                    " values (:email, now(), 'rejected', 'rcpt', 550, :reply, 'test')"
                ),
                {"email": email, "reply": reply},
            )


async def get(client: httpx2.AsyncClient, path: str) -> Any:
    response = await client.get(PREFIX + path)
    assert response.status_code == 200, response.text
    return response.json()


async def retry(client: httpx2.AsyncClient, **body: Any) -> Any:
    response = await client.post(f"{PREFIX}/emails/retry", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_the_state_of_an_idle_service(operator: httpx2.AsyncClient) -> None:
    state = await get(operator, "/operations")
    assert (state["sending"], state["late"], state["breaker"], state["parked"]) == ("on", False, None, 0)
    assert (state["emails"], state["consumers"], state["deferred_reply"]) == ({}, [], None)


async def test_what_is_wrong_is_in_the_state_without_addresses(
    operator: httpx2.AsyncClient, notifications: SessionFactory
) -> None:
    async with transaction(notifications) as session:
        await session.execute(
            text(
                "update gate set paused_at = now(), breaker_trips = 2, breaker_since = now(), breaker_until = now(),"
                " breaker_phase = 'auth', breaker_host = 'mail.test:587', breaker_code = 535,"
                " breaker_reason = '5.7.8 not you, shop@store.test'"
            )
        )
        await session.execute(
            insert(InboxEntry).values(
                event_id=uuid4(), type="message.posted", parked_at=text("now()"), reason="failed 5 times", event={}
            )
        )
    state = await get(operator, "/operations")
    assert (state["sending"], state["parked"]) == ("paused", 1)
    assert (state["breaker"]["phase"], state["breaker"]["busy"]) == ("auth", False)
    assert "535 5.7.8 not you" in state["breaker"]["reply"]
    assert "shop@store.test" not in str(state)
    [parked] = (await get(operator, "/parked"))["items"]
    assert (parked["type"], parked["reason"], set(parked)) == (
        "message.posted",
        "failed 5 times",
        {"id", "type", "reason", "parked_at"},
    )


async def test_failed_emails_are_retried_by_time_and_by_a_text_of_the_reply_that_is_no_pattern(
    operator: httpx2.AsyncClient, notifications: SessionFactory
) -> None:
    await fail_emails(notifications, ("rejected", "No such mailbox (a+b)"), ("uncertain", "lost"), ("rejected", "x"))
    await fail_emails(notifications, ("rejected", "no such mailbox"), hours=3)
    assert await retry(operator, reply=".*") == {"retried": 0, "skipped": 0, "more": False}
    assert (await retry(operator, since_seconds=3600, reply="MAILBOX (a+b)"))["retried"] == 1
    assert (await get(operator, "/operations"))["emails"] == {"failed": 3, "scheduled": 1}
    assert await retry(operator, since_seconds=3600) == {"retried": 1, "skipped": 1, "more": False}
    assert await retry(operator) == {"retried": 1, "skipped": 1, "more": False}


async def test_many_emails_are_retried_in_several_calls(
    operator: httpx2.AsyncClient, notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.notifications.api.routes.operations.MOST_RETRIED", 3)
    monkeypatch.setattr("services.notifications.delivery.operations.RETRY_BATCH", 2)
    await fail_emails(notifications, *[("rejected", "x")] * 4)
    assert await retry(operator) == {"retried": 3, "skipped": 0, "more": True}
    assert await retry(operator) == {"retried": 1, "skipped": 0, "more": False}


@pytest.mark.parametrize("body", [{"since_seconds": 0}, {"reply": ""}, {"reply": "x" * 201}, {"state": "sent"}])
async def test_an_invalid_choice_is_refused(operator: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    assert (await operator.post(f"{PREFIX}/emails/retry", json=body)).status_code == 422


async def test_parked_events_are_retried_by_the_sweeper_or_discarded(
    operator: httpx2.AsyncClient, notifications: SessionFactory
) -> None:
    parked = [uuid4(), uuid4()]
    async with transaction(notifications) as session:
        for event_id in parked:
            await session.execute(
                text(
                    "insert into inbox (event_id, type, parked_at, reason) values (:id, 'x', now(), 'failed 5 times')"
                ),
                {"id": event_id},
            )

    for event_id, action in zip(parked, ("retry", "discard"), strict=True):
        assert (await operator.post(f"{PREFIX}/parked/{event_id}/{action}")).status_code == 204
    [left] = (await operator.get(f"{PREFIX}/parked")).json()["items"]
    assert (left["id"], left["reason"]) == (str(parked[0]), "an operator has asked to try again")
    assert (await operator.post(f"{PREFIX}/parked/{parked[1]}/retry")).status_code == 404
