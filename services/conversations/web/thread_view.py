"""The messages of a conversation as `MessageHistoryPanel` shows them."""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from services.conversations.api.response_schemas import MessageOut, Viewer
from services.conversations.records import ConversationRow, MessageRow
from services.conversations.rules import Side
from services.conversations.web.localization import Reader


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
    kind: str = "message"


Item = Day | NewMark | Bubble


def history(
    rows: Sequence[MessageRow], conversation: ConversationRow, viewer: Viewer, reader: Reader, *, read_up_to: int
) -> list[Item]:
    """Return the items of the panel, oldest first. `rows` are newest first."""
    seen = conversation.read_by_admin_number if viewer.side is Side.CUSTOMER else conversation.read_by_user_number
    messages = [MessageOut.of(row, viewer) for row in reversed(rows)]
    bubbles = list(_bubbles(messages, viewer.side, seen))
    return list(_separated(bubbles, reader, read_up_to))


def _bubbles(messages: Sequence[MessageOut], side: Side, seen: int) -> Iterator[Bubble]:
    own = [message.number for message in messages if message.sender.role is side and message.number <= seen]
    last_seen = max(own, default=0)
    for message in messages:
        yield Bubble(
            message,
            own=message.sender.role is side,
            seen=message.number <= seen,
            last_seen=message.number == last_seen,
        )


def _separated(bubbles: Iterable[Bubble], reader: Reader, read_up_to: int) -> Iterator[Item]:
    date, has_mark = None, False
    for bubble in bubbles:
        if (day := reader.date_of(bubble.message.created_at)) != date:
            date = day
            yield Day(date)
        if not has_mark and not bubble.own and bubble.message.number > read_up_to:
            has_mark = True
            yield NewMark()
        yield bubble
