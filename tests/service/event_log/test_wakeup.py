"""New events wake the relay, which otherwise polls."""

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker

from services.conversations import relay
from services.conversations.event_log.append import announce_appends, append_event
from services.conversations.messaging.batching import GroupCommit
from services.conversations.messaging.posting import Post
from services.conversations.models import LoggedEvent
from services.conversations.realtime.log_notify import APPENDED, Notifier
from services.conversations.rules import Side
from shared.database.transactions import SessionFactory, connection_provider, transaction
from shared.events import EventType
from tests.helpers.waiting import eventually
from tests.service.helpers.callers import Caller
from tests.service.helpers.valkey_process import Valkey


async def unnumbered(sessions: SessionFactory) -> int:
    async with transaction(sessions) as session:
        return len((await session.scalars(select(LoggedEvent.id).where(LoggedEvent.position.is_(None)))).all())


async def test_a_post_is_numbered_without_waiting_for_the_poll(
    conversations: SessionFactory, anna: Caller, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "POLL", 120.0)
    monkeypatch.setattr(relay, "NOTIFIED_POLL", 120.0)
    opened = [UUID((await anna.open())["id"]) for _ in range(2)]

    def ignore(_: object) -> None: ...

    notifier, wakeup, stop = Notifier(APPENDED), relay._Wakeup(), asyncio.Event()  # noqa: SLF001 - part of it
    commit = GroupCommit(conversations, connection_provider(conversations.kw["bind"]), notifier.notify)
    tasks = [
        asyncio.create_task(notifier.run(valkey.url)),
        asyncio.create_task(wakeup.listener.run(valkey.url)),
        asyncio.create_task(relay._number(conversations, ignore, ignore, wakeup, stop)),  # noqa: SLF001 - part of it
    ]

    async def is_numbered() -> bool:
        return await unnumbered(conversations) == 0

    async def is_woken() -> bool:
        await commit.save(Post(opened[0], "anna", Side.CUSTOMER, "Hello?"))
        await eventually(is_numbered, deadline=1)  # long before the poll
        return True

    try:
        await eventually(is_woken)  # the subscription takes a moment
        await commit.save(Post(opened[1], "anna", Side.CUSTOMER, "Hello again?"))
        await eventually(is_numbered)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_only_saved_posts_wake_the_relay(conversations: SessionFactory, anna: Caller) -> None:
    woken: list[str] = []
    acquire = connection_provider(conversations.kw["bind"])
    commit = GroupCommit(conversations, acquire, lambda: woken.append("woken"))
    conversation = UUID((await anna.open(body="First"))["id"])
    refused = [Post(conversation, "nobody", Side.CUSTOMER, "Hello?"), Post(uuid4(), "anna", Side.CUSTOMER, "Hello?")]
    await asyncio.gather(*map(commit.save, refused), return_exceptions=True)
    assert woken == []
    await commit.save(Post(conversation, "anna", Side.CUSTOMER, "Hello?"))
    assert woken == ["woken"]


async def test_events_are_announced_after_their_commit(conversations: SessionFactory) -> None:
    announced: list[int] = []
    sessions = async_sessionmaker(conversations.kw["bind"])
    announce_appends(sessions, lambda: announced.append(len(announced)))
    async with sessions() as session:
        await append_event(session, EventType.USER_UPDATED, {}, user_id="anna")
        await session.rollback()
    assert announced == []
    async with transaction(sessions) as session:
        await append_event(session, EventType.USER_UPDATED, {}, user_id="anna")
        assert announced == []
    assert announced == [0]
    assert await unnumbered(conversations) == 1
    async with transaction(sessions) as session:
        await session.execute(select(LoggedEvent.id))
    assert announced == [0]
