"""Split text into the words that search compares: without case and accents, in any script.

Punctuation separates words, but `wi-fi` is found as `wifi`, too. In scripts that are written without spaces, each
character is a word. Pairs of neighbours find phrases.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, groupby, pairwise
from typing import Final, NamedTuple
from unicodedata import category, decimal, normalize
from zlib import crc32

PAIRS: Final = 0xFFFFF  # a million: a pair shares its form with few others, and the index stays small
MAX_WORD: Final = 64  # characters of a word that count

_BEYOND_ASCII: Final = range(0x80, 0x1FFFF)


def _ranges(codes: Iterable[int]) -> str:
    """Return the characters as ranges of a regular expression, which looks at single ones above U+FFFF one by one."""
    numbered = groupby(enumerate(codes), key=lambda each: each[1] - each[0])
    neighbours = ([code for _, code in group] for _, group in numbered)
    return "".join(f"{chr(each[0])}-{chr(each[-1])}" for each in neighbours)


_MARKS: Final = _ranges(code for code in _BEYOND_ASCII if category(chr(code))[0] == "M")
_UNSEEN: Final = "\u00ad\u200b-\u200f\u2060\ufeff"  # characters without a width: soft hyphens, joiners
_IN_WORD: Final = rf"[\w{_MARKS}{_UNSEEN}]+"  # `\w` alone would end a word at an accent of decomposed text
_CONNECTORS: Final = "-\u2010-\u2014\u2212'\u2018\u2019\u02bc.,/@+&:\u00b7"
_EMOJI: Final = "\u2600-\u27bf\U0001f000-\U0001faff"
# Thai, Lao, Tibetan, Burmese, Khmer, Japanese and Chinese
_SPACELESS: Final = (
    "\u0e00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_RUN: Final = re.compile(f"{_IN_WORD}(?:[{_CONNECTORS}]{_IN_WORD})*|[{_EMOJI}]")
_PART: Final = re.compile(f"[^{_CONNECTORS}_]+")
_CLUSTER: Final = re.compile(f"[{_SPACELESS}][{_MARKS}\uff9e\uff9f]*|[^{_SPACELESS}]+")
_HAS_SPACELESS: Final = re.compile(f"[{_SPACELESS}]")
_NUMBER: Final = re.compile(r"(\d{1,3}(?:[.,'\u2019]\d{3})+)(?:[.,]\d\d?)?")  # with separators of thousands
_DIGITS: Final = re.compile(r"\d+")
# Accents of Latin, Greek and Cyrillic, points of Hebrew, signs of Arabic, and characters without a width
_IGNORED: Final = re.compile(f"[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670{_UNSEEN}]")
_LETTERS: Final[dict[int, str | int]] = {
    **{code: str(decimal(chr(code))) for code in _BEYOND_ASCII if chr(code).isdecimal()},
    **{code: code - 0x60 for code in range(0x30A1, 0x30F7)},  # katakana as hiragana
    **dict(zip(map(ord, "øłđðħ\u0131"), "olddhi", strict=True)),
    ord("æ"): "ae",
    ord("œ"): "oe",
    ord("þ"): "th",
}
_UMLAUTS: Final = {ord(umlaut): f"{vowel}e" for umlaut, vowel in zip("äöü", "aou", strict=True)}


class Word(NamedTuple):
    """A word at a place in a text.

    `forms` are what people write for it: `grosse` and `groesse` for `Größe`. Of `SO2024`, `more` has the number.
    """

    forms: tuple[str, ...]
    more: tuple[str, ...]
    start: int
    end: int


class Run(NamedTuple):
    """Words without a space between them; `joined` is what they are without their punctuation."""

    words: tuple[Word, ...]
    joined: tuple[str, ...]


class _Terms(NamedTuple):
    """The terms of a run: those that have a pair with the run before, or after, and `every` one of them."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    every: frozenset[str]


def split(text: str) -> Iterator[Run]:
    """Split a text into runs of words, in order. Places count code points."""
    for run in _RUN.finditer(text):
        words = tuple(_words(run[0], run.start()))
        if len(words) > 1:
            yield Run(words, _joined(run[0], words))
        elif words:
            yield Run(words, ())


def terms(text: str) -> set[str]:
    """Return everything by which a text can be found: its words in all forms, and the pairs of neighbours."""
    found: set[str] = set()
    previous: tuple[str, ...] = ()
    for run in _RUN.findall(text):
        first, last, every = _terms_of_usual_run(run) if len(run) <= MAX_WORD else _terms_of_run(run)
        found |= every
        found.update(pair(one, other) for one in previous for other in first)
        previous = last or previous
    return found


def _terms_of_run(text: str) -> _Terms:
    words = tuple(_words(text, 0))
    if not words:
        return _Terms((), (), frozenset())
    joined = _joined(text, words) if len(words) > 1 else ()
    parts = [word.forms + word.more for word in words]
    pairs = [pair(one, other) for before, after in pairwise(parts) for one in before for other in after]
    return _Terms(parts[0] + joined, parts[-1] + joined, frozenset(chain(*parts, joined, pairs)))


# Most words of a text are in other texts, too. Longer runs, up to a whole message, would fill the memory.
_terms_of_usual_run = lru_cache(maxsize=50_000)(_terms_of_run)


def pair(first: str, second: str) -> str:
    """Return the term for two neighbours. No word begins with its first character."""
    return f"~{crc32(f'{first} {second}'.encode()) & PAIRS:x}"


def is_spaceless(text: str) -> bool:
    """Return whether a text is in a script that is written without spaces."""
    return _HAS_SPACELESS.search(text) is not None


def _words(run: str, offset: int) -> Iterator[Word]:
    for part in _PART.finditer(run):
        if part[0].isascii() or not is_spaceless(part[0]):
            yield from _word(part[0], offset + part.start())
        else:
            for cluster in _CLUSTER.finditer(part[0]):
                yield from _word(cluster[0], offset + part.start() + cluster.start())


def _word(text: str, start: int) -> Iterator[Word]:
    forms, more = _forms(text)
    if forms:
        yield Word(forms, more, start, start + len(text))


def _forms(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if text.isascii():
        forms: tuple[str, ...] = (text.lower()[:MAX_WORD],)
    else:
        plain = normalize("NFKC", text).casefold()
        forms = tuple(dict.fromkeys(filter(None, map(_bare, (plain, plain.translate(_UMLAUTS))))))
    more = [digits for digits in _DIGITS.findall(forms[0]) if digits != forms[0]] if forms else []
    if forms and forms[0].isdecimal() and forms[0].startswith("0"):
        more.append(forms[0].lstrip("0"))
    return forms, tuple(filter(None, more))


def _bare(text: str) -> str:
    return normalize("NFC", _IGNORED.sub("", normalize("NFKD", text))).translate(_LETTERS)[:MAX_WORD]


def _joined(run: str, words: tuple[Word, ...]) -> tuple[str, ...]:
    if is_spaceless(run):
        return ()
    joined = ["".join(word.forms[0] for word in words)]
    if number := _NUMBER.fullmatch(run):
        joined.append("".join(_DIGITS.findall(number[1])))
    return tuple(form for form in dict.fromkeys(joined) if len(form) <= MAX_WORD)
