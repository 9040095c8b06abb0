"""Cut an admin's reply to what a customer may see: the admin's own words, or nothing if that is not certain.

For a customer's reply too much is shown rather than too little. Here it is the other way round: a quote that is not
recognised would show a customer what was written for admins.
"""

import re
from collections.abc import Sequence
from typing import Final

from services.notifications.inbound.parsing.lines import Line
from services.notifications.inbound.quotes.folding import LONG_UNIT, Folding, joined
from services.notifications.inbound.quotes.introductions import Known, begins_headers, introduces
from services.notifications.mail.fingerprints import Fingerprints, essence, sentences

MAX_CHARACTERS: Final = 50_000  # of a reply with its quote; a longer one is never certain
_RULE = re.compile("[\\s>]*(?:[-_=]{5,}|[-_=]{2,}.{1,60}[-_=]{2,})\\s*")
_DATED = re.compile("\\d{4}|\\d[:.]\\d\\d")
_REPLY_ADDRESS = re.compile("reply\\+[a-z2-7]{52}@", re.IGNORECASE)


def own_words(lines: Sequence[Line], ours: Fingerprints, known: Known) -> str | None:
    """Return what an admin wrote, without the signature below `-- `; None if it may contain what they quote."""
    if sum(len(line.text) for line in lines) > MAX_CHARACTERS:
        return None
    folding = Folding(lines, ours, known)
    folding.fold_quotes()
    folding.fold_introductions()
    folding.fold_ornaments()
    if any(rest.strip() for rest in folding.rest.values()):  # words behind ours, in the same line
        return None
    left = [number for number in range(len(lines)) if not folding.folded[number]]
    signature = next((number for number in left if _is_delimiter(lines[number])), len(lines))
    if _answers_below(lines, folding, signature):
        return None
    left = [number for number in left if number < signature]
    if any(_may_be_quoted(lines, folding, known, number) for number in left):
        return None
    texts = ["" if folding.folded[number] else lines[number].text.rstrip() for number in range(signature)]
    return joined(texts, folds=True)


def _is_delimiter(line: Line) -> bool:
    return not line.quoted and line.text.rstrip() == "--"


def _answers_below(lines: Sequence[Line], folding: Folding, signature: int) -> bool:
    """Return whether there is more below a quote that follows the signature: then it may be an answer."""
    below = range(signature, len(lines))
    first = next((number for number in below if folding.folded[number]), len(lines))
    return any(
        not folding.folded[number] and not lines[number].quoted and not folding.is_neutral(number)
        for number in range(first, len(lines))
    )


def _may_be_quoted(lines: Sequence[Line], folding: Folding, known: Known, number: int) -> bool:
    """Return whether a line that is left looks like a part of a quote, or like what stands around one."""
    line = lines[number]
    text = line.text.strip()
    if not text:
        return False
    if line.quoted or _RULE.fullmatch(text) or _REPLY_ADDRESS.search(text):
        return True
    if any(part and part in text for part in known.url_parts if "/admin/" in part):
        return True
    if introduces(text, known) or begins_headers(lines, folding.folded, known, number):
        return True
    if text.endswith((":", "\uff1a")) and "@" in text and _DATED.search(text):
        return True
    return any(_is_ours(sentence, folding.ours, known) for sentence in sentences(text))


def _is_ours(sentence: str, ours: Fingerprints, known: Known) -> bool:
    letters = essence(sentence)
    if letters in map(essence, (*known.names, *known.recipient, known.subject)):
        return False
    return any(length >= LONG_UNIT for length, _ in ours.matches(letters, 0))
