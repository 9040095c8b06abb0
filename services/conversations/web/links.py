"""Turn web and email addresses in a message into links, in time linear in its length for any text.

Each regular expression reads a character once, and only a message's first candidates are checked. Libraries have no
such bounds: `linkify-it-py` 2.2 needs 31 ms for 10,000 characters of addresses, even in words of 2,000, but a page of
50 such messages has to render in 300 ms (`bench/page_text.py`).
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from markupsafe import Markup, escape

MAX_ADDRESS: Final = 2_000  # characters; longer addresses stay text
MAX_CANDIDATES: Final = 200  # possible addresses in a message; later ones stay text

_LATIN: Final = "A-Za-z0-9\u00c0-\u024f"  # Japanese and Chinese put no space around an address
_LABEL: Final = rf"[{_LATIN}]++(?:-++[{_LATIN}]++)*+"
# No re.IGNORECASE: it would also match the long s.
_CANDIDATE: Final = re.compile(
    rf"""
    (?P<web> (?<![A-Za-z0-9]) [Hh][Tt][Tt][Pp][Ss]?:// (?=[^\W_]|\[) )
    | (?P<www> (?<![{_LATIN}_@/.-]) [Ww]{{3}}\. (?=[^\W_]) )
    | (?P<email> (?<![{_LATIN}]) (?<![{_LATIN}][.+_%'-]) [{_LATIN}] [{_LATIN}.+_%'-]{{0,63}}+ @
        {_LABEL} (?:\.{_LABEL})++ (?<=[^\W\d_]{{2}}) (?![{_LATIN}_@]) )
    """,
    re.VERBOSE,
)
# Characters that end a web address. Brackets and quotes depend on the text before them.
_ENDS: Final = (
    r"""\s<>"`\\^|{}"""
    "\x00-\x1f\x7f-\xa9\xab-\xb4\xb6\xb8\xb9\xbb-\xbf"  # controls; symbols and quotes of Latin-1
    "\u060c\u061b-\u061f\u06d4\u0964\u0965"  # Arabic and Indian punctuation, the Arabic letter mark
    "\u055a-\u055f\u0589\u05c0\u05c3\u0f0d-\u0f12\u104a\u104b\u1361-\u1368\u17d4-\u17d6"  # other scripts
    "\u115f\u1160\u180e\u3164\uffa0"  # invisible letters
    "\u2000-\u206f\u2e00-\u2e7f"  # punctuation, invisible characters, bidirectional controls
    "\u20a0-\u20cf\u2100-\u214f\u2190-\u2bff"  # symbols
    "\u3000-\u303f\ufe00-\ufe6f\ufeff"  # Chinese, Japanese and Korean punctuation
    "\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffff"  # the same and ASCII, fullwidth or halfwidth
    "\U0001f000-\U0001faff\U000e0000-\U0010ffff"  # emoji; tags and private use
)
_PLAIN: Final = re.compile(rf"[^{_ENDS}()\[\]']*+")
_WORD: Final = re.compile(r"\S*+")
_OPENING: Final = {")": "(", "]": "["}
_TRAILING: Final = ".,:;!?'*_~([\u30fb"
_HOST: Final = re.compile(r"[^/]+//([^/?#]++)")


_LINK: Final = Markup('<a href="{}" dir="ltr" rel="nofollow noopener noreferrer" target="_blank">{}</a>')


class _Link(NamedTuple):
    start: int
    end: int
    href: str


def linked(text: str) -> Markup:
    """Return a text as HTML with links for web and email addresses.

    A link ends before a bidirectional control, and is isolated from the text around it. Otherwise it could show another
    address than its target.
    """
    parts: list[Markup] = []
    position = 0
    for start, end, href in _links(text):
        parts += escape(text[position:start]), _LINK.format(href, text[start:end])
        position = end
    rest = escape(text[position:])
    return Markup().join([*parts, rest]) if parts else rest


def _links(text: str) -> Iterator[_Link]:
    for candidate, end in islice(_candidates(text), MAX_CANDIDATES):
        start = candidate.start()
        address = text[start:end]
        if candidate["email"]:
            yield _Link(start, end, f"mailto:{address}")
            continue
        address = address.rstrip(_TRAILING)
        url = f"https://{address}" if candidate["www"] else address
        if _is_safe(url, dots=2 if candidate["www"] else 0):
            yield _Link(start, start + len(address), url)


def _candidates(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """Yield possible addresses, without overlaps, and the position where each ends at the latest."""
    if not any(sign in text for sign in ("@", "://")) and "www." not in text.lower():
        return  # the search below takes a hundred times as long
    position = 0
    while candidate := _CANDIDATE.search(text, position):
        position = candidate.end()
        if not candidate["email"]:
            quoted = text[candidate.start() - 1 : candidate.start()] == "'"
            position = _web_end(text, position, quoted=quoted)
        yield candidate, position


def _web_end(text: str, start: int, *, quoted: bool) -> int:
    """Return the end of a web address: before an unmatched closing bracket, or the closing quote around it."""
    end, opened = start, ""
    while end - start <= MAX_ADDRESS:
        end = _end_of(_PLAIN, text, end)
        sign = text[end : end + 1]
        if sign in ("(", "["):
            opened += sign
        elif sign in _OPENING and opened.endswith(_OPENING[sign]):
            opened = opened[:-1]
        elif sign != "'" or quoted:
            return end
        end += 1
    return _end_of(_WORD, text, end)  # too long


def _is_safe(url: str, *, dots: int) -> bool:
    """Return whether a URL shows its real host: a name before an @ would look like one."""
    host = _HOST.match(url)
    return len(url) <= MAX_ADDRESS and host is not None and "@" not in host[1] and host[1].count(".") >= dots


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start
