"""Messages that do not fit into one email are split into several: each message is in exactly one."""

from email import message_from_bytes, policy
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text

from services.notifications.delivery import message_selection
from services.notifications.delivery.claiming import claim_emails
from services.notifications.delivery.leases import ClaimedEmail
from services.notifications.models import Email, EmailMessage
from services.notifications.rules import EmailState
from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.event_factory import email_settings, posted, read, receive

SETTINGS = email_settings("postgresql://unused")


async def claim_rest(sessions: SessionFactory) -> list[ClaimedEmail]:
    """Claim until nothing is due; return the emails."""
    claimed: list[ClaimedEmail] = []
    while True:
        async with transaction(sessions) as session:
            emails = await claim_emails(session, SETTINGS)
        if emails is None:
            return claimed
        claimed += emails


async def claim_all(sessions: SessionFactory) -> list[list[int]]:
    """Claim until nothing is due; return the message numbers of each email, sorted."""
    await claim_rest(sessions)
    return await read_claimed(sessions)


async def read_claimed(sessions: SessionFactory) -> list[list[int]]:
    """Return the message numbers of each claimed email, sorted."""
    async with sessions() as session:
        numbers = func.array_agg(EmailMessage.number)
        claimed = (
            select(numbers)
            .join(Email, Email.id == EmailMessage.email_id)
            .where(EmailMessage.left_out.is_(False), Email.state == EmailState.SENDING)
        )
        return sorted(sorted(email) for email in await session.scalars(claimed.group_by(Email.id)))


async def gather(sessions: SessionFactory, *bodies: str) -> UUID:
    """Post messages that join one email; return their conversation."""
    conversation = uuid4()
    await receive(sessions, SETTINGS, *(posted(conversation, n, body=body) for n, body in enumerate(bodies, 1)))
    return conversation


async def test_more_messages_than_an_email_holds_are_split(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_selection, "MAX_MESSAGES", 3)
    await gather(notifications, *"abcdefg")
    assert await claim_all(notifications) == [[1, 2, 3], [4, 5, 6], [7]]


async def test_more_text_than_an_email_holds_is_split_and_a_message_never_is(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_selection, "html_size", len)
    monkeypatch.setattr(message_selection, "MAX_HTML_BYTES", 10)
    await gather(notifications, "a" * 4, "b" * 6, "c" * 11, "d", "e" * 9)
    assert await claim_all(notifications) == [[1, 2], [3], [4, 5]]


async def test_long_messages_go_into_emails_that_are_shown_whole_each_with_a_link(
    notifications: SessionFactory,
) -> None:
    conversation = await gather(notifications, *("word " * 2000 for _ in range(8)), *("字" * 10_000 for _ in range(3)))
    emails = await claim_rest(notifications)
    assert await read_claimed(notifications) == [[1, 2, 3, 4, 5, 6], [7, 8, 9], [10, 11]]
    for email in (message_from_bytes(claimed.content, policy=policy.default) for claimed in emails):
        text, html = email.iter_parts()
        assert len(html.as_bytes()) < 102 * 1024
        assert str(conversation) in text.get_content()[:200]
        assert str(conversation) in html.get_content()[:5000]


async def test_read_messages_do_not_count_towards_an_email(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_selection, "MAX_MESSAGES", 2)
    conversation = await gather(notifications, *"abcd")
    await receive(notifications, SETTINGS, read(conversation, 2))
    assert await claim_all(notifications) == [[3, 4]]
    async with notifications() as session:
        assert await session.scalar(select(func.count()).select_from(Email)) == 1


async def test_messages_that_come_after_a_split_join_the_open_email(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_selection, "MAX_MESSAGES", 2)
    conversation = await gather(notifications, *"abc")
    async with transaction(notifications) as session:
        assert len(await claim_emails(session, SETTINGS) or []) == 1
        await session.execute(text("update emails set next_attempt_at = clock_timestamp() where state = 'scheduled'"))
    await receive(notifications, SETTINGS, posted(conversation, 4))
    assert await claim_all(notifications) == [[1, 2], [3, 4]]
