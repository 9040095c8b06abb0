"""Unsubscribing: the link, the page, one-click, and what becomes of emails."""

import re
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import select

from services.notifications.delivery.claiming import claim_emails
from services.notifications.models import Email, Mute
from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.event_factory import deleted, email_settings, posted, receive

SETTINGS = email_settings("postgresql://unused", support_email="desk@store.test")
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


async def claim(sessions: SessionFactory) -> list[bytes]:
    async with transaction(sessions) as session:
        return [email.content for email in await claim_emails(session, SETTINGS) or []]


async def states(sessions: SessionFactory) -> list[tuple[str, str | None]]:
    async with sessions() as session:
        rows = await session.execute(select(Email.state, Email.reason).order_by(Email.id))
        return [(state, reason) for state, reason in rows]


def link_of(content: bytes) -> str:
    email = message_from_bytes(content, policy=policy.default)
    [link] = re.findall(r"<https://store\.test(/.+)>", email["List-Unsubscribe"])
    for part in ("plain", "html"):
        body = email.get_body((part,))
        assert body
        assert link in body.get_content()
    return str(link)


@pytest.fixture
async def link(notifications: SessionFactory) -> str:
    """The link of an email to anna about another conversation, which was sent."""
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    [content] = await claim(notifications)
    return link_of(content)


async def test_each_email_to_a_customer_has_a_link_and_one_click(notifications: SessionFactory) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1), posted(conversation, 2, by="customer"))
    emails = [message_from_bytes(content, policy=policy.default) for content in await claim(notifications)]
    headers = {email["To"].addresses[0].addr_spec: email["List-Unsubscribe-Post"] for email in emails}
    assert headers == {"anna@customer.test": "List-Unsubscribe=One-Click", "desk@store.test": None}
    assert [email["List-Unsubscribe"] is None for email in emails if "desk" in str(email["To"])] == [True]


async def test_opening_the_link_changes_nothing_and_names_nothing(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient, link: str
) -> None:
    page = await notifications_api.get(link, headers={"Accept-Language": "de"})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "E-Mails zu dieser Unterhaltung abbestellen" in page.text
    assert "parcel" not in page.text
    assert "anna" not in page.text.lower()
    assert "script" not in page.headers["content-security-policy"]
    async with notifications() as session:
        assert not (await session.scalars(select(Mute))).all()


@pytest.mark.parametrize(
    ("form", "same", "other"),
    [
        (ONE_CLICK, "muted", None),
        ({"emails": "conversation"}, "muted", None),
        ({"emails": "all"}, "muted", "muted"),
        ({"emails": "none"}, None, None),
    ],
)
async def test_a_post_stops_emails_that_are_not_being_sent(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient, form: dict[str, str], same: str, other: str
) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1))
    link = link_of((await claim(notifications))[0])
    await receive(notifications, SETTINGS, posted(conversation, 2), posted(uuid4(), 1))
    for _ in range(2):  # the second click
        assert (await notifications_api.post(link, data=form)).status_code == 200
    await claim(notifications)
    assert [reason for _, reason in await states(notifications)] == [None, same, other]


async def test_emails_are_turned_on_again(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient, link: str
) -> None:
    for wish in ("conversation", "all", "none"):
        page = await notifications_api.post(link, data={"emails": wish})
        assert ("Turn emails on again" in page.text) == (wish != "none")
        assert ("Stop all emails from us" in page.text) == (wish != "all")
    async with notifications() as session:
        assert not (await session.scalars(select(Mute))).all()


async def test_whoever_writes_again_gets_emails_about_that_again(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1))
    await notifications_api.post(link_of((await claim(notifications))[0]), data=ONE_CLICK)
    before = datetime.now(UTC) - timedelta(minutes=1)
    await receive(notifications, SETTINGS, posted(conversation, 2, by="customer", created_at=before))
    async with notifications() as session:
        assert (await session.scalars(select(Mute))).all(), "written before, handled late"
    await receive(notifications, SETTINGS, posted(conversation, 3, by="customer"), posted(conversation, 4))
    assert any(b"anna@" in content for content in await claim(notifications))


async def test_a_deleted_conversation_leaves_no_wish_behind(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient
) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1))
    await notifications_api.post(link_of((await claim(notifications))[0]), data=ONE_CLICK)
    await receive(notifications, SETTINGS, deleted(conversation))
    async with notifications() as session:
        assert not (await session.scalars(select(Mute))).all()


async def test_a_link_that_is_not_ours_is_a_page_that_says_so(notifications_api: httpx2.AsyncClient, link: str) -> None:
    for method in ("GET", "POST"):
        page = await notifications_api.request(method, f"{link[:-4]}AAAA", data=ONE_CLICK if method == "POST" else None)
        assert (page.status_code, "Follow the link in the email again" in page.text) == (404, True)
    refused = await notifications_api.post(link, data={"emails": "some"})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation-failed")
    assert (await notifications_api.post(link, data={"emails": "x" * 5000})).status_code == 413
