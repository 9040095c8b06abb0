"""What introduces a quote of ours: a sentence, or a block of headers, that has our address or name.

No list of words of languages: a sentence needs our address or name, a date, and a colon or the address at its end. Of a
block of headers each line needs a value that we know.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.notifications.inbound.parsing.lines import Line
from services.notifications.mail.fingerprints import essence

INTRO_LINES: Final = 4  # over which the sentence above a quote is wrapped
HEADER_LINES: Final = 12  # of a block of headers above a quote
LONGEST_INTRO: Final = 300  # characters of a line that introduces a quote

_RULES: Final = re.escape("-_=*~") + "\u2500\u2501\u2013\u2014"
_ORNAMENT = re.compile(f"[\\s>|{_RULES}\u00b7\u2022.\u2010\u2015\u00ad\u200b-\u200f\u2060\ufeff]*")
_RULE = re.compile(rf"\s*(?:[{_RULES}]{{3,}}.{{0,60}}[{_RULES}]{{3,}}|[{_RULES}]{{5,}})\s*")
_DATED = re.compile("\\b(?:19|20)\\d\\d\\b|\\d[:.h]\\d\\d|\\d{1,2}[./-]\\d{1,2}|(?:19|20)\\d\\d[\u5e74\ub144]")
_HEADER = re.compile("\\W{0,4}[^\\W\\d_][^:\uff1a\\n]{0,30}[:\uff1a]\\**\\s*(.*)")
_INTRO_END = re.compile("[:\uff1a>]\\W*$")


@dataclass(frozen=True, slots=True)
class Known:
    """What stands above a quote of ours: our addresses and names, the recipient's, the subject, parts of our URLs."""

    addresses: Sequence[str]
    names: Sequence[str] = ()
    recipient: Sequence[str] = ()
    subject: str = ""
    url_parts: Sequence[str] = ()


def find_introduction(lines: Sequence[Line], folded: Sequence[bool], known: Known, number: int) -> int | None:
    """Return the line where the introduction above a line begins; None if there is none."""
    above = _above(lines, number)
    if above is None or folded[above]:
        return None
    begin = _headers(lines, folded, known, above)
    if begin is None:
        begin = _sentence(lines, folded, known, above)
    if begin is None:
        return None
    rule = _above(lines, begin, rules=True)
    return rule if rule is not None and _is_rule(lines[rule].text) else begin


def _above(lines: Sequence[Line], number: int, *, rules: bool = False) -> int | None:
    """Return the next line above that says something; None if there is none, or it is far away."""
    for above in range(number - 1, max(-1, number - 6), -1):
        text = lines[above].text.strip()
        if rules and _is_rule(text):
            return above
        if text and not is_ornament(text):
            return above
    return None


def _headers(lines: Sequence[Line], folded: Sequence[bool], known: Known, last: int) -> int | None:
    """Return the first line of a block of headers that ends with a line; each value of it is known."""
    begin, ours, count, unknown = None, False, 0, 0
    for number in range(last, max(-1, last - HEADER_LINES), -1):
        text = lines[number].text.strip()
        match = _HEADER.fullmatch(text)
        if not text and count and number:
            continue  # some programs put each header into a paragraph of its own
        if match is None or len(text) > LONGEST_INTRO or folded[number]:
            break
        value = match[1]
        is_ours = _names_us(value, known)
        if is_ours or _is_known(value, known):
            begin, ours, count, unknown = number, ours or is_ours, count + 1, 0
        else:
            unknown += 1
            if unknown > 1:
                break
    return begin if ours and count > 1 else None


def _sentence(lines: Sequence[Line], folded: Sequence[bool], known: Known, last: int) -> int | None:
    """Return the first line of the sentence that introduces a quote and ends with a line."""
    text = ""
    for number in range(last, max(-1, last - INTRO_LINES), -1):
        line = lines[number]
        if folded[number] or not line.text.strip() or len(line.text) > LONGEST_INTRO:
            return None
        text = f"{line.text.strip()} {text}"
        if line.intro:
            above = number - 1
            return _sentence(lines, folded, known, above) if above >= 0 and lines[above].intro else number
        if number == last and not (_INTRO_END.search(line.text) or _has_address(text, known)):
            return None
        if _names_us(text, known) and _DATED.search(_without_addresses(text)):
            return number
    return None


def _names_us(text: str, known: Known) -> bool:
    return _has_address(text, known) or _has_name(text, known.names)


def _has_address(text: str, known: Known) -> bool:
    lowered = text.lower()
    return any(address and address.lower() in lowered for address in known.addresses)


def _is_known(value: str, known: Known) -> bool:
    subject = essence(known.subject)
    letters = essence(value)
    if subject and letters.endswith(subject) and len(letters) <= len(subject) + 8:
        return True
    lowered = value.lower()
    if any(name and name.lower() in lowered for name in known.recipient):
        return True
    return bool(_DATED.search(value))


def begins_headers(lines: Sequence[Line], folded: Sequence[bool], known: Known, number: int) -> bool:
    """Return whether a block of headers ends with a line, as above a quote of ours."""
    return _headers(lines, folded, known, number) is not None


def introduces(text: str, known: Known) -> bool:
    """Return whether a line alone introduces a quote. It may begin with our name, which is also in our emails."""
    if len(text) > LONGEST_INTRO:
        return False
    ends = _INTRO_END.search(text) or _has_address(text, known)
    return bool(ends and _names_us(text, known) and _DATED.search(_without_addresses(text)))


def is_ornament(text: str) -> bool:
    """Return whether a text is only marks of a quote, dots, dashes and what is not seen."""
    return _ORNAMENT.fullmatch(text) is not None


def _is_rule(text: str) -> bool:
    return len(text) <= LONGEST_INTRO and _RULE.fullmatch(text) is not None


def _without_addresses(text: str) -> str:
    return re.sub(r"\S+@\S+", " ", text)


def _has_name(text: str, names: Sequence[str]) -> bool:
    letters = essence(text)
    return any(name and name in letters for name in map(essence, names))
