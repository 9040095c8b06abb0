"""Show why a conversation was found: where its terms are, with the text around the first of them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple
from unicodedata import normalize
from uuid import UUID

from services.conversations.records import ConversationDetail
from services.conversations.rules import CustomValue, Side
from services.conversations.search.query import SearchQuery, Span, Term
from services.conversations.search.words import split
from shared.text import cut

LENGTH: Final = 160  # characters of an excerpt
BEFORE: Final = 30  # of these before the first hit, at most
_BREAKS: Final = str.maketrans(dict.fromkeys("\n\r\t\v\f\x85\u2028\u2029", " "))

Notes = Sequence[tuple[UUID, str]]
Place = Literal["message", "note", "subject", "customer", "order"]


class Match(NamedTuple):
    """Where a conversation has what was searched for. `hits` are places in the excerpt, in code points."""

    place: Place
    number: int | None
    note_id: UUID | None
    excerpt: str
    hits: Sequence[Span]


class _Candidate(NamedTuple):
    place: Place
    text: str
    number: int | None = None
    note_id: UUID | None = None

    def find(self, wanted: Sequence[Term]) -> list[list[Span]]:
        """Return the places of each term."""
        runs = list(split(self.text))
        return [list(term.find(runs)) for term in wanted]


class _PartOfName(_Candidate):
    """A name or address of a customer, of which a term may be any part."""

    def find(self, wanted: Sequence[Term]) -> list[list[Span]]:
        """Return the places of each term."""
        folded = _folded(self.text)
        return [
            [Span(found.start(), len(found[0])) for found in re.finditer(re.escape(_folded(term.text)), folded)]
            for term in wanted
        ]


def _folded(text: str) -> str:
    """Return a text of the same length without case and most accents."""
    return "".join(normalize("NFKD", character)[0].casefold()[0] for character in text)


def find_match(
    query: SearchQuery,
    detail: ConversationDetail,
    messages: Iterable[tuple[int, str]],
    notes: Notes,
    side: Side,
    custom: Mapping[str, CustomValue] | None = None,
    merged_ids: Sequence[str] = (),
) -> Match | None:
    """Return the place that has most of the terms: of several, a message, and the newest one. None if no place has any.

    `messages` are those that may have some, newest first. Only admins find customers by who they are, and by the
    store's own fields of them, `custom`, and by whole `merged_ids` of theirs.
    """
    wanted = query.wanted
    best, most, places = None, 0, list[Span]()
    for candidate in _candidates(detail, messages, notes, side, custom or {}, merged_ids):
        found = candidate.find(wanted)
        if (count := sum(map(bool, found))) > most:
            best, most, places = candidate, count, [span for spans in found for span in spans]
        if most == len(wanted):
            break
    if best is None:
        return None if wanted else Match("subject", None, None, detail.conversation.subject, [])
    return Match(best.place, best.number, best.note_id, *excerpt_of(best.text, places))


def _candidates(
    detail: ConversationDetail,
    messages: Iterable[tuple[int, str]],
    notes: Notes,
    side: Side,
    custom: Mapping[str, CustomValue],
    merged_ids: Sequence[str],
) -> Iterator[_Candidate]:
    for number, body in messages:
        yield _Candidate("message", body, number)
    for note_id, body in notes:
        yield _Candidate("note", body, note_id=note_id)
    yield _Candidate("subject", detail.conversation.subject)
    if detail.order is not None:
        yield _Candidate("order", detail.order.number)
    if side is Side.ADMIN and detail.user.deleted_at is None:
        customer = [text for text in (detail.user.name, detail.user.email, detail.user.id) if text is not None]
        # As `custom_search_form` in the database has them.
        customer += [str(value) for value in custom.values() if value is not None and not isinstance(value, bool)]
        customer += merged_ids
        yield from (_Candidate("customer", text) for text in customer)
        yield from (_PartOfName("customer", text) for text in customer)


def excerpt_of(text: str, places: Iterable[Span]) -> tuple[str, Sequence[Span]]:
    """Return the text around the first place, on one line, and the places in it.

    The first place is near the start, because lists show one or two lines.
    """
    hits = _merged(places)
    first = hits[0].start if hits else 0
    begin = _begin(text, first)
    shown = cut(text[begin:], LENGTH).translate(_BREAKS).rstrip()
    end, prefix = begin + len(shown), "…" if begin else ""
    suffix = "…" if end < len(text.rstrip()) else ""
    shift = len(prefix) - begin
    inside = [Span(hit.start + shift, min(hit.length, end - hit.start)) for hit in hits if hit.start < end]
    return f"{prefix}{shown}{suffix}", inside


def _begin(text: str, first: int) -> int:
    """Return where an excerpt begins: with the text, or with a word shortly before the first place."""
    if first <= BEFORE:
        return 0
    space = re.search(r"\s\S", text[first - BEFORE : first + 1])
    return first - BEFORE + space.start() + 1 if space else first


def _merged(places: Iterable[Span]) -> list[Span]:
    """Sort the places, and join those that overlap."""
    merged: list[Span] = []
    for start, length in sorted(places):
        if merged and start < merged[-1].start + merged[-1].length:
            last = merged.pop()
            merged.append(Span(last.start, max(last.length, start + length - last.start)))
        else:
            merged.append(Span(start, length))
    return merged
