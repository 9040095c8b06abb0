"""Fold the quote of our own email out of a reply, and nothing else.

Only what we wrote ourselves is folded, whole sentences of it, and what introduces it: a line or a block of headers with
our address or name. A sentence that is marked as a quote is enough; without a mark, several must follow each other as
they did in our email. What is left is what the sender wrote, wherever it stands. If our words are not found, or nothing
else is, the whole text is shown.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from unicodedata import normalize

from services.notifications.inbound.parsing.lines import Line
from services.notifications.inbound.quotes.introductions import Known, find_introduction, introduces, is_ornament
from services.notifications.mail.fingerprints import Fingerprints, essence, without_urls

MAX_CHARACTERS: Final = 200_000  # of a text that is searched; a longer one is shown whole
LONG_UNIT: Final = 20  # letters of a sentence that is recognised as quoted out of its order
STRONG_RUN: Final = 60  # letters of sentences in our order that need no mark of a quote
NEARBY: Final = 4  # sentences that an answer may have replaced


@dataclass(frozen=True, slots=True)
class Cut:
    """What a sender wrote. `folded`: a quote was folded; `only_quote`: nothing else was there, so it is all shown."""

    text: str
    folded: bool = False
    only_quote: bool = False


def cut(lines: Sequence[Line], ours: Fingerprints, known: Known) -> Cut:
    """Return what the sender wrote in an email, given as its lines."""
    whole = joined(_shown(line) for line in lines)
    if not ours or len(whole) > MAX_CHARACTERS:
        return Cut(whole)
    reply = Folding(lines, ours, known)
    reply.fold_quotes()
    if not any(reply.folded):
        return Cut(whole)
    reply.fold_introductions()
    reply.fold_ornaments()
    text = joined(reply.kept(), folds=True)
    if not any(character.isalnum() or ord(character) > 0x2000 for character in text):  # noqa: PLR2004 - symbols
        return Cut(whole, only_quote=True)
    return Cut(text, folded=True)


def _shown(line: Line) -> str:
    mark = "" if line.boxed else ">" * line.depth
    return f"{mark} {line.text}".rstrip() if mark else line.text.rstrip()


def joined(texts: Iterable[str], *, folds: bool = False) -> str:
    """Return lines as one text, with at most three empty lines in a row, or one where folds left some."""
    text = "\n".join(texts)
    text = re.sub(r"\n{3,}" if folds else r"\n{4,}", "\n\n" if folds else "\n\n\n", text)
    return re.sub(r"\A(?:[^\S\n]*\n)+", "", text).rstrip()


class Folding:
    """An email while it is being cut: its lines, and the letters of them all in one string."""

    def __init__(self, lines: Sequence[Line], ours: Fingerprints, known: Known) -> None:
        self.lines, self.ours, self.known = lines, ours, known
        self.folded = [False] * len(lines)
        self.rest: dict[int, str] = {}  # what the sender wrote in a line behind our words
        essences = [essence(line.text) for line in lines]
        self.letters = "".join(essences)
        self.starts: list[int] = []
        at = 0
        for piece in essences:
            self.starts.append(at)
            at += len(piece)
        self.starts.append(at)
        self._last = -1  # the position of the last sentence of ours that was folded

    def is_neutral(self, number: int) -> bool:
        """Return whether a line has no letters and digits."""
        return self.starts[number] == self.starts[number + 1]

    def fold_quotes(self) -> None:
        """Fold our sentences, wherever they are quoted."""
        self.fold_marked()
        self.fold_unmarked()

    def fold_marked(self) -> None:
        """Fold our sentences where the email's form marks a quote, if they are in our order or long."""
        number, reached = 0, 0
        while number < len(self.lines):
            if not self.lines[number].quoted or self.is_neutral(number) or self.starts[number + 1] <= reached:
                number += 1
                continue
            at = max(self.starts[number], reached)
            is_ours = not introduces(self.lines[number].text, self.known)
            while is_ours and (hit := self._next_unit(at, self._last, LONG_UNIT)):
                length, position = hit
                if not self._is_quoted(number, at + length):
                    break
                self._last = position
                at += length
            self._mark(number, at)
            reached = max(reached, at)
            number += 1

    def _next_unit(self, at: int, last: int, long: int | None = None) -> tuple[int, int] | None:
        """Return length and position of the unit that begins here and follows another; or of one that is long."""
        others: list[tuple[int, int]] = []
        for length, positions in self.ours.matches(self.letters, at):
            for position in positions:
                if position > last:
                    return length, position
            others.append((length, positions[0]))
        return others[0] if others and long is not None and others[0][0] >= long else None

    def _is_quoted(self, number: int, end: int) -> bool:
        """Return whether all lines up to a letter are marked as quoted."""
        while number < len(self.lines) and self.starts[number] < end:
            if not self.lines[number].quoted and not self.is_neutral(number):
                return False
            number += 1
        return True

    def _mark(self, number: int, end: int) -> None:
        """Fold the lines from a number up to a letter; of the last one, keep what follows."""
        while number < len(self.lines) and self.starts[number] < end:
            if self.starts[number + 1] <= end:
                self.folded[number] = True
                self.rest.pop(number, None)
            else:
                self.folded[number] = True
                self.rest[number] = _behind(self.lines[number].text, end - self.starts[number])
            number += 1

    def fold_unmarked(self) -> None:
        """Fold runs of whole lines of ours without a mark: long ones, introduced ones, and what continues a quote."""
        number = 0
        while number < len(self.lines):
            if self.folded[number] or self.lines[number].quoted or self.is_neutral(number):
                number += 1
            else:
                number = self._fold_run(number)

    def _fold_run(self, first: int) -> int:
        """Fold the run of our sentences that begins with a line; return the line after it, or after `first`."""
        at, end, last, units = self.starts[first], self.starts[first], -1, 0
        begin: int | None = None
        while at < self.starts[-1]:
            hit = None
            if begin is None and self._last >= 0:
                hit = self._next_unit(at, self._last)
                hit = hit if hit and hit[1] - self._last <= NEARBY else None
            hit = hit or self._next_unit(at, last)
            if hit is None or (begin is not None and hit[1] - last > NEARBY):
                break
            length, last = hit
            begin, units = last if begin is None else begin, units + 1
            at += length
            end = at
        end = self._whole_lines(first, end)
        size = end - self.starts[first]
        if not size or begin is None:
            return first + 1
        continues = self._last >= 0 and 0 < begin - self._last <= NEARBY
        strong = size >= STRONG_RUN and units > 1
        if not (continues or strong or self._introduction(first) is not None):
            return first + 1
        self._last = last
        self._mark(first, end)
        while first < len(self.lines) and self.starts[first] < end:
            first += 1
        return first

    def _whole_lines(self, first: int, end: int) -> int:
        """Return the end of the last line that a run covers whole."""
        covered = self.starts[first]
        while first < len(self.lines) and self.starts[first + 1] <= end:
            covered = self.starts[first + 1]
            first += 1
        return covered

    def fold_introductions(self) -> None:
        """Fold what introduces each quote: the sentence or the headers above it, and a rule above those."""
        for number in range(len(self.lines)):
            if self.folded[number] and (begin := self._introduction(number)) is not None:
                for above in range(begin, number):
                    self.folded[above] = True

    def _introduction(self, number: int) -> int | None:
        return find_introduction(self.lines, self.folded, self.known, number)

    def fold_ornaments(self) -> None:
        """Fold lines without letters beside folded ones: rules, marks of a quote, and links of ours."""
        previous = False
        for number, line in enumerate(self.lines):
            text = line.text.strip()
            if self.folded[number] or not text or not self.is_neutral(number):
                previous = self.folded[number] or (previous and not text)
                continue
            url = any(part and part in text for part in self.known.url_parts)
            bare = not without_urls(text).strip(" <>()[]")
            signature = text == "--" and not line.quoted  # what follows is the sender's
            beside = previous or self._folded_below(number)
            if (bare and (url or (line.quoted and beside))) or (is_ornament(text) and beside and not signature):
                self.folded[number] = True
            previous = self.folded[number]

    def _folded_below(self, number: int) -> bool:
        for below in range(number + 1, min(len(self.lines), number + 4)):
            if self.folded[below]:
                return True
            if self.lines[below].text.strip():
                return False
        return False

    def kept(self) -> Iterable[str]:
        """Yield what is left, with an empty line for each fold."""
        for number, line in enumerate(self.lines):
            if self.folded[number]:
                yield self.rest.get(number, "")
            elif line.text.strip() or not line.quoted:
                yield line.text.rstrip()
            else:
                yield ""


def _behind(text: str, letters: int) -> str:
    """Return what follows the first so many letters and digits of a line."""
    seen = 0
    for at, character in enumerate(without_urls(text)):
        if seen >= letters:
            return text[at:].lstrip(" .,;:!?)]\"'*_->\u2026\u2013\u2014")
        seen += len("".join(filter(str.isalnum, normalize("NFKD", character).casefold())))
    return ""
