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
    """A separator: the messages below are of this day."""

    date: dt.date
    kind: str = "day"


@dataclass(frozen=True, slots=True)
class NewMark:
    """A separator: the messages below are new to the reader."""

    kind: str = "new"


@dataclass(frozen=True, slots=True)
class Bubble:
    """A message, `own` when it is of the reader's side."""

    message: MessageOut
    own: bool
    seen: bool  # has the other side read it?
    last_seen: bool  # and is it the last such?
    kind: str = "message"


Item = Day | NewMark | Bubble


def history(
    rows: Sequence[MessageRow], conversation: ConversationRow, viewer: Viewer, reader: Reader, *, read_up_to: int
) -> list[Item]:
    """Return what stands in the panel, oldest first; `rows` come newest first, as they are read."""
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
    date, marked = None, False
    for bubble in bubbles:
        if (on := reader.date_of(bubble.message.created_at)) != date:
            date = on
            yield Day(date)
        if not marked and not bubble.own and bubble.message.number > read_up_to:
            marked = True
            yield NewMark()
        yield bubble
