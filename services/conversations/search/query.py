"""Read what somebody has typed into a search field: words, `"exact phrases"`, `-without`."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from services.conversations.search.words import Run, is_spaceless, pair, split
from shared.problems import Invalid

MAX_LENGTH: Final = 200  # characters
MAX_WORDS: Final = 8
# Before an order's number they say what it is, as pages do: "Order A-1004". The order itself does not have these words.
ORDER_WORDS: Final = frozenset({"order", "orders", "bestellung", "bestellnummer", "auftrag", "auftragsnummer"})
NUMBER_WORDS: Final = frozenset({"number", "no", "nr", "nummer"})
MIN_PREFIX: Final = 2  # characters of the last word from which it may be the beginning of a longer one

# Quotation marks are one character; NUL separates words, because PostgreSQL's texts cannot contain it.
_PLAIN: Final = str.maketrans(dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\uff02", '"') | {"\x00": " "})
_TERM: Final = re.compile(r'(?P<without>[-\u2212](?=["\w]))?(?:"(?P<phrase>[^"]*)"?|(?P<word>\S+))')


class Span(NamedTuple):
    """A place in a text, in code points."""

    start: int
    length: int


class Term(NamedTuple):
    """A word or a phrase to find.

    A text has it if it has all of `words` as neighbours, each in one of its forms, or one of `joined` as a word. With
    `is_prefix`, its last word may be longer.
    """

    text: str
    words: tuple[tuple[str, ...], ...]
    joined: tuple[str, ...]
    is_negated: bool
    is_prefix: bool
    is_phrase: bool = False

    def tsquery(self) -> str:
        """Return PostgreSQL's query for documents that may have the term: it does not tell the order of pairs."""
        last = len(self.words) - 1
        parts = [_any(forms, is_prefix=self.is_prefix and index == last) for index, forms in enumerate(self.words)]
        end = last if self.is_prefix else last + 1  # the last word may be incomplete, so its pair is not known
        parts += [_any(_pairs(self.words[index - 1], self.words[index])) for index in range(1, end)]
        sequence = " & ".join(parts)
        joined = [_any([form], is_prefix=self.is_prefix) for form in self.joined]
        return f"({' | '.join((f'({sequence})', *joined))})"

    def lexemes(self) -> tuple[set[str], set[str]]:
        """Return the lexemes that show where a document has the term: whole ones, and beginnings of longer ones."""
        last = len(self.words) - 1
        whole = {form for forms in self.words[:last] for form in forms}
        whole.update(form for index in range(1, last) for form in _pairs(self.words[index - 1], self.words[index]))
        if self.is_prefix:
            return whole, {*self.words[last], *self.joined}
        if last:
            whole.update(_pairs(self.words[last - 1], self.words[last]))
        return {*whole, *self.words[last], *self.joined}, set()

    def find(self, runs: Sequence[Run]) -> Iterator[Span]:
        """Yield the places where a text, split into these, has the term. They may overlap."""
        words = [word for run in runs for word in run.words]
        last = len(self.words) - 1
        for index in range(len(words) - last):
            found = words[index : index + last + 1]
            if all(self._is(self.words[n], word.forms + word.more, n == last) for n, word in enumerate(found)):
                yield _span(found[0].start, found[-1].end)
        wanted = self.joined if last else self.words[0]
        for run in runs:
            forms = run.joined or (run.words[0].forms if last else ())
            if self._is(wanted, forms, is_last=True):
                yield _span(run.words[0].start, run.words[-1].end)

    def _is(self, wanted: Sequence[str], forms: Sequence[str], is_last: bool) -> bool:
        if self.is_prefix and is_last:
            return any(form.startswith(each) for form in forms for each in wanted)
        return any(form in wanted for form in forms)


class SearchQuery(NamedTuple):
    """The terms of a search: a conversation has to have all of them, except for the negated ones."""

    terms: Sequence[Term]

    @property
    def wanted(self) -> Sequence[Term]:
        """The terms that are not negated."""
        return [term for term in self.terms if not term.is_negated]

    def tsquery(self, alternatives: Sequence[str] = ()) -> str:
        """Return PostgreSQL's query; `alternatives` has for each term a lexeme that counts as the term."""
        parts = []
        for index, term in enumerate(self.terms):
            part = term.tsquery()
            if alternatives:
                part = f"({part} | {quoted(alternatives[index])})"
            parts.append(f"!{part}" if term.is_negated else part)
        return " & ".join(parts)


def parse(text: str) -> SearchQuery:
    """Read a search. Raise `Invalid` if it is too long; punctuation alone gives a query without terms."""
    if len(text) > MAX_LENGTH:
        raise Invalid(f"A search can have at most {MAX_LENGTH} characters.", ("query", "q"), "search_too_long")
    plain = text.translate(_PLAIN).strip()
    terms, count, last = [], 0, None
    for match in _TERM.finditer(plain):
        typed = match["phrase"] if match["word"] is None else match["word"]
        last = match
        runs = list(split(typed))
        if not runs:
            continue
        count += len([word for word in typed.split() if next(split(word), None)])
        joined = runs[0].joined if len(runs) == 1 else ()
        words = tuple(word.forms for run in runs for word in run.words)
        terms.append(
            Term(typed, words, joined, bool(match["without"]), is_prefix=False, is_phrase=match["word"] is None)
        )
    if count > MAX_WORDS:
        raise Invalid(f"A search can have at most {MAX_WORDS} words.", ("query", "q"), "search_too_many_words")
    if terms and last is not None and last["word"] is not None and last["without"] is None:
        terms[-1] = terms[-1]._replace(is_prefix=_may_be_longer(terms[-1]))
    return SearchQuery(list(_without_order_words(terms)))


def _without_order_words(terms: Sequence[Term]) -> Iterator[Term]:
    """Leave out words that only say that an order's number follows."""
    waiting: list[Term] = []
    for term in terms:
        word = term.words[-1][0]
        if _is_word(term) and word in (NUMBER_WORDS if waiting else ORDER_WORDS):
            waiting.append(term)
            continue
        if term.is_negated or not re.search(r"\d", term.text):
            yield from waiting
        waiting = []
        yield term
    yield from waiting


def _is_word(term: Term) -> bool:
    return len(term.words) == 1 and not term.is_negated and not term.is_phrase


def _may_be_longer(term: Term) -> bool:
    word = term.words[-1][0]
    return len(word) >= MIN_PREFIX and not is_spaceless(term.text[-1])


def _pairs(first: Iterable[str], second: Sequence[str]) -> list[str]:
    return [pair(one, other) for one in first for other in second]


def _any(forms: Iterable[str], *, is_prefix: bool = False) -> str:
    parts = [quoted(form) + (":*" if is_prefix else "") for form in forms]
    return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"


def quoted(form: str) -> str:
    """Return a lexeme as PostgreSQL reads it in the text of a document or a query."""
    escaped = form.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _span(start: int, end: int) -> Span:
    return Span(start, end - start)
