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
# Each position has it, also those of texts without words. PostgreSQL appends a document behind the last position.
_FILLER: Final = "~"


class Stored(NamedTuple):
    """The latest document of a conversation in the database; `size` is the number of its terms."""

    first: int
    last: int
    size: int


class Document(NamedTuple):
    """A document of the messages from number `first` to `last`; `tsvector` is its text.

    If it is `after` a message, the text is that of the later messages, to append to the stored document.
    """

    first: int
    last: int
    tsvector: str
    after: int | None = None


def build(heading: str, messages: Iterable[tuple[int, str]], stored: Stored | None = None) -> Iterator[Document]:
    """Build the documents of a conversation's messages, which are later than those of the stored document.

    A conversation without messages has a document of its heading.
    """
    first, last, size = stored or Stored(1, 0, 0)
    after = stored and stored.last
    positions = {} if stored else _begin(heading)
    for number, body in messages:
        found = {_FILLER, *terms(body)}
        if last >= first and (number - first >= MAX_MESSAGES or size + len(positions) + len(found) > MAX_TERMS):
            if positions:
                yield Document(first, last, _tsvector(positions), after)
            first, size, after, positions = number, 0, None, _begin(heading)
        position = number - first + HEADING + 1 if after is None else number - after
        for term in found:
            positions.setdefault(term, []).append(position)
        last = number
    if positions:
        yield Document(first, last, _tsvector(positions), after)


def text_of(terms_of_text: Iterable[str]) -> str:
    """Return the text of a tsvector without positions."""
    return " ".join(map(quoted, terms_of_text))


def _begin(heading: str) -> dict[str, list[int]]:
    return {term: [HEADING] for term in (_FILLER, *terms(heading))}


def _tsvector(positions: dict[str, list[int]]) -> str:
    return " ".join(f"{quoted(term)}:{','.join(map(str, places))}" for term, places in positions.items())
