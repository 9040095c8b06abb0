"""A sweeper without its loop, which reads the feed of a real conversations API."""

from dataclasses import dataclass, field

import httpx2
from sqlalchemy import select, text

from services.conversations.event_log.append import append_event
from services.conversations.event_log.sequencer import number_events
from services.notifications import sweeper
from services.notifications.models import FeedCursor, Notification
from services.notifications.settings import EmailSettings
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from shared.events import EventType
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import email_settings


@dataclass
class Sweeper:
    """A sweeper without its loop."""

    conversations: SessionFactory
    notifications: SessionFactory
    feed: httpx2.AsyncClient
    settings: EmailSettings = field(default_factory=lambda: email_settings("postgresql://unused"))

    async def number(self) -> int:
        """Number all events; return the last position."""
        async with transaction(self.conversations) as session:
            await number_events(await transaction_driver(session))
            return (await session.execute(text("select head from feed"))).scalar_one()  # type: ignore[no-any-return]

    async def catch_up(self, min_age: float = 0) -> bool:
        """Read the feed once; return True when there may be more."""
        return await sweeper.catch_up(self.notifications, self.feed, self.settings, min_age=min_age)

    async def catch_up_fully(self) -> None:
        """Read the feed to its end."""
        while await self.catch_up():
            pass

    async def cursor(self) -> FeedCursor:
        async with self.notifications() as session:
            return await session.get_one(FeedCursor, True)

    async def records(self) -> list[int]:
        """Return the numbers of the messages that have notifications."""
        async with self.notifications() as session:
            return list(await session.scalars(select(Notification.number).order_by(Notification.number)))

    async def log(self, event_type: str, payload: dict[str, object]) -> None:
        """Log an event as another version of the product might."""
        async with transaction(self.conversations) as session:
            await append_event(session, EventType.CONVERSATION_CREATED, payload)
            await session.execute(
                text("update events set type = :type where seq = (select max(seq) from events)"), {"type": event_type}
            )


async def answer(anna: Caller, sam: Caller, times: int = 1) -> str:
    """Open a conversation as Anna and answer it as Sam."""
    conversation = str((await anna.open())["id"])
    for _ in range(times):
        await sam.post(conversation)
    return conversation
