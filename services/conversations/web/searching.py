"""Searches in the pages: their results, why one is refused, and what was found as markup."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from markupsafe import Markup, escape

from services.conversations.errors import SearchTooSlow
from services.conversations.messaging.listing import Filters
from services.conversations.records import ConversationDetail
from services.conversations.rules import Side
from services.conversations.search.excerpts import Match
from services.conversations.search.finding import find_conversations
from services.conversations.search.query import parse
from shared.database.engine import Driver
from shared.problems import Invalid


@dataclass(frozen=True, slots=True)
class Result:
    """A page of a list. Of a search, each row has its match; `problem` names the reason why there was none.

    `is_complete` as in `search.finding.FoundPage`.
    """

    rows: Sequence[tuple[ConversationDetail, Match | None]] = ()
    next_cursor: str | None = None
    is_complete: bool = True
    problem: str | None = None

    @classmethod
    def of(cls, details: Sequence[ConversationDetail], next_cursor: str | None) -> Self:
        """Return a page of a list that is no search."""
        return cls([(detail, None) for detail in details], next_cursor)


async def search(connection: Driver, q: str, filters: Filters, side: Side, cursor: str | None, limit: int) -> Result:
    """Search for what somebody has typed."""
    try:
        query = parse(q)
    except Invalid as invalid:
        return Result(problem=invalid.field_code)
    try:
        return Result(*await find_conversations(connection, query, filters, side, cursor, limit))
    except SearchTooSlow as slow:
        return Result(problem=slow.code)


def marked(match: Match) -> Markup:
    """Return the excerpt of a match as markup."""
    parts, end = [], 0
    for start, length in match.hits:
        parts += [escape(match.excerpt[end:start]), Markup("<mark>%s</mark>") % match.excerpt[start : start + length]]
        end = start + length
    return Markup().join([*parts, escape(match.excerpt[end:])])
