"""Make the documents that PostgreSQL searches: all terms of a conversation, each with the messages that have it.

A document is a tsvector whose positions are not places of words: 1 is the subject and the order number, and each
message has the next one. A lexeme has 255 positions at most, and a tsvector a megabyte, so long conversations have
several documents. Each of them repeats the subject, so that it can be found together with a word of any message.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from services.conversations.search.query import quoted
from services.conversations.search.words import terms

MAX_MESSAGES: Final = 200
MAX_TERMS: Final = 8_000  # a further message has 30,000 at most, and both together half a megabyte

HEADING: Final = 1  # the position of the subject and the order number


class Document(NamedTuple):
    """A document of the messages from number `first` to `last`; `tsvector` is its text."""

    first: int
    last: int
    tsvector: str


def build(heading: str, messages: Iterable[tuple[int, str]], first: int = 1) -> Iterator[Document]:
    """Build the documents of a conversation from message number `first` on. Without messages there is still one."""
    of_heading = terms(heading)
    positions, last = _begin(of_heading), first - 1
    for number, body in messages:
        found = terms(body)
        is_full = number - first >= MAX_MESSAGES or len(positions) + len(found) > MAX_TERMS
        if is_full and last >= first:
            yield Document(first, last, _tsvector(positions))
            positions, first = _begin(of_heading), number
        position = number - first + HEADING + 1
        for term in found:
            positions.setdefault(term, []).append(position)
        last = number
    yield Document(first, last, _tsvector(positions))


def text_of(terms_of_text: Iterable[str]) -> str:
    """Return the text of a tsvector without positions."""
    return " ".join(map(quoted, terms_of_text))


def _begin(heading: Iterable[str]) -> dict[str, list[int]]:
    return {term: [HEADING] for term in heading}


def _tsvector(positions: dict[str, list[int]]) -> str:
    return " ".join(f"{quoted(term)}:{','.join(map(str, places))}" for term, places in positions.items())
