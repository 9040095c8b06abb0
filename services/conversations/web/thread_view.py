"""The part that the customer's and the admin's page of a conversation share: its messages."""

import datetime as dt
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.api.schemas.desk import EmailOut, TimelineEntry, entry_of
from services.conversations.api.schemas.responses import MessageOut, OrderOut, Viewer
from services.conversations.desk.timeline import list_entries
from services.conversations.messaging.commands import read_conversation
from services.conversations.messaging.queries import list_messages
from services.conversations.records import ConversationDetail, ConversationRow, MessageRow, UserRow
from services.conversations.rules import Side
from services.conversations.web.auth import PageContext, with_unread_decremented
from services.conversations.web.localization import Reader
from services.conversations.web.rendering import Page, pages_of
from shared.database.transactions import driver_connection
from shared.paging import MAX_NUMBER

HISTORY: Final = 50  # messages on a page
# Why the notifications service suppresses an email, and would the next one. Of others it says when they are over.
STAYS_OFF: Final = frozenset({"recipient-not-allowed", "own-address", "unattended-address"})


@dataclass(frozen=True, slots=True)
class Day:
    """A separator before the messages of a day."""

    date: dt.date
    kind: str = "day"


@dataclass(frozen=True, slots=True)
class NewMark:
    """A separator before the messages that are new to the reader."""

    kind: str = "new"


@dataclass(frozen=True, slots=True)
class Bubble:
    """A message. It is `own` if it was sent by the reader's side."""

    message: MessageOut
    own: bool
    seen: bool  # read by the other side
    last_seen: bool  # the newest of own messages that are read
    email: EmailOut | None = None  # that contains it, for admins
    kind: str = "message"


@dataclass(frozen=True, slots=True)
class Entry:
    """What happened between two messages, or to the email that contains them; for admins only."""

    entry: TimelineEntry
    after_number: int
    kind: str = "entry"


Item = Day | NewMark | Bubble | Entry


@dataclass(frozen=True, slots=True)
class ThreadPage:
    """The page of a conversation, for one side. `reads` marks the conversation as read."""

    request: Request
    template: str
    page_context: PageContext
    viewer: Viewer
    reads: bool = False
    earlier: str | None = None  # cursor of a page of earlier messages

    async def render(self, session: AsyncSession, detail: ConversationDetail, **context: Any) -> Page:
        """Load the messages, mark the conversation as read, and render the page with more `context`."""
        side, page_context = self.viewer.side, self.page_context
        rows, next_cursor = await list_messages(
            await driver_connection(session),
            detail.conversation.id,
            scope=page_context.principal.id if side is Side.CUSTOMER else None,
            newest_first=True,
            after=None,
            cursor=self.earlier,
            limit=HISTORY,
        )
        was_read, read_up_to = _read_state(detail.conversation, side)
        read = read_up_to if was_read else 0
        if self.reads:
            read = detail.conversation.message_count
            detail = await read_conversation(session, detail, side, page_context.principal.id)
            if not was_read and _read_state(detail.conversation, side)[0]:
                page_context = with_unread_decremented(page_context)
        entries, known_until, stops = (
            await self._load_entries(session, detail.conversation.id, rows) if side is Side.ADMIN else ([], None, [])
        )
        pages = pages_of(self.request)
        reader = pages.reader(self.request, page_context)
        return pages.render(
            self.request,
            self.template,
            page_context,
            conversation=detail.conversation,
            order=detail.order and OrderOut.of(detail.order),
            items=history(rows, detail.conversation, self.viewer, reader, read_up_to=read_up_to, entries=entries),
            emails_known_until=known_until,
            no_email=_no_email(detail.user, stops, [entry.entry for entry in entries]),
            next_cursor=next_cursor,
            earlier=self.earlier,
            read=read,  # the number up to which it is read; scripts continue from there
            # The newest message on the screen: the reader cannot have seen newer ones.
            seen_number=rows[0].number if rows else 0,
            **context,
        )

    async def _load_entries(
        self, session: AsyncSession, conversation_id: UUID, rows: Sequence[MessageRow]
    ) -> tuple[list[Entry], dt.datetime | None, list[str]]:
        """Load the entries after the messages on this page, until when emails are known, and why there are none."""
        first = rows[-1].number if rows and rows[-1].number > 1 else 0
        last = rows[0].number if self.earlier and rows else MAX_NUMBER
        connection = await driver_connection(session)
        found, known_until, stops = await list_entries(connection, conversation_id, first=first, last=last)
        return [Entry(entry_of(row), row.after_number) for row in found], known_until, stops


def _no_email(customer: UserRow, stops: Sequence[str], entries: Iterable[TimelineEntry]) -> str | None:
    """Return why no email will go out: what is known of the customer, or of the last email's reasons those that stay.

    `stops` are in the order in which they count.
    """
    if customer.deleted_at is not None:
        return "user-deleted"
    if customer.email is None:
        return "no-address"
    if stops:
        return stops[0]
    emails = [entry for entry in entries if isinstance(entry, EmailOut) and entry.to == Side.CUSTOMER]
    newest = max(emails, key=lambda email: email.state_at, default=None)
    is_off = newest is not None and newest.state == "suppressed" and newest.reason in STAYS_OFF
    return newest.reason if newest is not None and is_off else None


def _read_state(conversation: ConversationRow, side: Side) -> tuple[bool, int]:
    """Return whether a side has read all messages, and the number up to which it has read."""
    if side is Side.CUSTOMER:
        return conversation.is_read_by_user, conversation.read_by_user_number
    return conversation.is_read_by_admin, conversation.read_by_admin_number


def history(
    rows: Sequence[MessageRow],
    conversation: ConversationRow,
    viewer: Viewer,
    reader: Reader,
    *,
    read_up_to: int,
    entries: Sequence[Entry] = (),
) -> list[Item]:
    """Return the items of the panel, oldest first. `rows` are newest first, `entries` oldest first."""
    seen = conversation.read_by_admin_number if viewer.side is Side.CUSTOMER else conversation.read_by_user_number
    messages = [MessageOut.of(row, viewer) for row in reversed(rows)]
    statuses = [entry.entry for entry in entries if isinstance(entry.entry, EmailOut)]
    emails = {number: status for status in statuses for number in status.numbers}
    bubbles = list(_bubbles(messages, viewer.side, seen, emails))
    others = [entry for entry in entries if not isinstance(entry.entry, EmailOut)]
    return list(_separated(_merged(bubbles, others), reader, read_up_to))


def _merged(bubbles: Iterable[Bubble], entries: Sequence[Entry]) -> Iterator[Bubble | Entry]:
    """Put each entry after its message."""
    waiting = deque(entries)
    for bubble in bubbles:
        while waiting and waiting[0].after_number < bubble.message.number:
            yield waiting.popleft()
        yield bubble
    yield from waiting


def _bubbles(messages: Sequence[MessageOut], side: Side, seen: int, emails: Mapping[int, EmailOut]) -> Iterator[Bubble]:
    own = [message.number for message in messages if message.sender.role is side and message.number <= seen]
    last_seen = max(own, default=0)
    for message in messages:
        yield Bubble(
            message,
            own=message.sender.role is side,
            seen=message.number <= seen,
            last_seen=message.number == last_seen,
            email=emails.get(message.number),
        )


def _is_new(bubble: Bubble, read_up_to: int) -> bool:
    return not bubble.own and not bubble.message.removed and bubble.message.number > read_up_to


def _separated(items: Iterable[Bubble | Entry], reader: Reader, read_up_to: int) -> Iterator[Item]:
    date, has_mark = None, False
    for item in items:
        moment = item.entry.at if isinstance(item, Entry) else item.message.created_at
        if (day := reader.date_of(moment)) != date:
            date = day
            yield Day(date)
        if isinstance(item, Bubble) and not has_mark and _is_new(item, read_up_to):
            has_mark = True
            yield NewMark()
        yield item
