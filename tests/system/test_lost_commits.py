"""PostgreSQL crashes before the disk has the commit of a handled event: the event takes effect once all the same."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from sqlalchemy import func, select, update

from deploy.local.processes import Spawn
from services.notifications.event_consumer.consumer import find_missing, receive_events, receive_missing
from services.notifications.models import FeedCursor, Notification
from shared.database.engine import close_engine, create_engine
from shared.database.transactions import SessionFactory, create_sessions, transaction
from shared.events import Event
from tests.service.helpers.event_factory import email_settings, posted
from tests.system.helpers.product import Product, running_product

# Without them, only commits that wait for the disk write to it.
BACKGROUND_WRITERS = ("walwriter", "background writer")


@pytest.fixture
async def product(tmp_path: Path, fork: Spawn) -> AsyncIterator[Product]:
    async with running_product(tmp_path, fork) as product:
        yield product


@pytest.fixture
async def sessions(product: Product) -> AsyncIterator[SessionFactory]:
    engine = create_engine(product.environment["CHATS_NOTIFICATIONS_DATABASE_URL"], application="tests")
    yield create_sessions(engine)
    await close_engine(engine)


async def test_a_handled_event_that_a_crash_loses_is_handled_again(product: Product, sessions: SessionFactory) -> None:
    event = posted(uuid4(), 1)
    suspend_writers(product)
    assert await receive_events(sessions, [event], email_settings("postgresql://unused"), repeated=False)
    assert await records_of(sessions) == 1
    await crash(product)

    assert await records_of(sessions) == 0, "the commit has waited for the disk"
    assert await missing(sessions, event)
    assert await receive_missing(sessions, [event], email_settings("postgresql://unused"))
    assert await records_of(sessions) == 1


async def test_a_crash_loses_no_event_that_the_cursor_is_past(product: Product, sessions: SessionFactory) -> None:
    event = posted(uuid4(), 1)
    suspend_writers(product)
    assert await receive_events(sessions, [event], email_settings("postgresql://unused"), repeated=False)
    async with transaction(sessions) as session:
        await session.execute(update(FeedCursor).values(position=1))
    await crash(product)

    assert not await missing(sessions, event)
    assert await records_of(sessions) == 1


def suspend_writers(product: Product) -> None:
    for process in product.family("postgres"):
        if any(name in " ".join(process.cmdline()) for name in BACKGROUND_WRITERS):
            process.suspend()


async def crash(product: Product) -> None:
    """Kill PostgreSQL, which loses what it has not written yet, and start it again."""
    for process in product.family("postgres"):  # the first one is the parent of the others
        with suppress(psutil.NoSuchProcess):
            process.kill()
    await product.kill("postgres")
    await product.start("postgres")


async def missing(sessions: SessionFactory, event: Event) -> bool:
    async with transaction(sessions) as session:
        return bool(await find_missing(session, [event]))


async def records_of(sessions: SessionFactory) -> int:
    async with transaction(sessions) as session:
        return int(await session.scalar(select(func.count()).select_from(Notification)) or 0)
