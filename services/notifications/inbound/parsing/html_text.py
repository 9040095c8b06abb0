"""Turn the HTML of an email into lines of text that know whether a mail program marked them as a quote."""

import re
from collections.abc import Iterable, Iterator
from copy import copy
from html import unescape
from typing import Final

from inscriptis.css_profiles import CSS_PROFILES
from inscriptis.html_engine import Inscriptis
from inscriptis.model.canvas import Block, Prefix
from inscriptis.model.config import ParserConfig
from inscriptis.model.html_document_state import HtmlDocumentState
from lxml import etree, html

from services.notifications.inbound.parsing.lines import Line

MAX_DEPTH: Final = 150  # of elements; each needs two frames of Python's stack

# Private characters around what mail programs mark. Those that an email contains itself are removed.
_OPEN, _CLOSE, _BOX_OPEN, _BOX_CLOSE, _INTRO = map(chr, range(0xF0000, 0xF0005))
_MARKS = re.compile(f"[{_OPEN}{_CLOSE}{_BOX_OPEN}{_BOX_CLOSE}{_INTRO}]")
_AND = chr(0xF0005)  # stands for an ampersand
_LEAD = re.compile(f"[\\s{_OPEN}{_CLOSE}{_BOX_OPEN}{_BOX_CLOSE}{_INTRO}]+")
# Classes, ids and names of the elements that hold a quote with its introduction.
_BOXES = re.compile(
    r"gmail_quote|gmail_extra|yahoo_quoted|protonmail_quote|tutanota_quote|zmail_extra|moz-forward-container"
    r"|divRplyFwdMsg|appendonsend|ms-outlook-mobile-reference-message|mail-editor-reference-message-container"
    r"|OLK_SRC_BODY_SECTION|aolReplacedBody|messageReplySection|sh-quoted-content|replysplit|ymail_quoted"
    r"|WordSection1_quote|hey_quote|qt-reply|isReplyContent|quote-block|mcntReplied"
)
# Those of the sentence that introduces a quote.
_INTROS = re.compile(r"gmail_attr|moz-cite-prefix|reply-intro|yahoo-quoted-begin|qt-intro|protonmail_attr")
_BLANK_CONTENT = ("head", "script", "style", "title", "template", "noscript", "svg", "math", "object", "iframe")
_CONFIG = ParserConfig(css=CSS_PROFILES["strict"].copy(), display_images=False, deduplicate_captions=False)
_ENGINE = Inscriptis(etree.Element("html"), _CONFIG)  # has no state of a text but that of this empty one
# The parser takes the square of the number of an element's attributes: half a second for 10,000, minutes for 2 MB.
MAX_ATTRIBUTES: Final = 100
_ATTRIBUTE = r"""[\s/]*[^\s/>](?>[^\s/>=]*)(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'>][^\s>]*)?)?"""
_OVERLOADED = re.compile(rf"<[a-zA-Z][^\s/><]*+[\s/](?>{_ATTRIBUTE}){{{MAX_ATTRIBUTES + 1}}}")
_TAG = re.compile(r"<[^<>]{0,2000}>")
_SPACE = re.compile(r"[ \t\u00a0\u2000-\u200a\u202f\u3000]+")


def html_lines(source: str) -> list[Line]:
    """Return the lines of an HTML text. Never raises, and never leaves text out because of its structure."""
    tree = _parse(source)
    if tree is None:  # nothing, too deep for the parser, which then has nothing, or too much for it
        return [Line(text) for raw in unescape(_TAG.sub("\n", source)).split("\n") if (text := raw.strip())]
    elements = list(tree.iter())  # kept: lxml makes each again at every look at it, if nothing holds it
    _prepare(elements)
    if len(elements) > MAX_DEPTH and _depth(tree) > MAX_DEPTH:
        _flatten(tree)
    if "&" in source:
        _hide_ampersands(tree)
    try:
        text = _render(tree)
    except Exception:  # noqa: BLE001 - a strange tree may do anything to it: then without its layout
        text = "\n".join(str(piece) for piece in tree.itertext())
    return list(_lines(text.replace(_AND, "&")))


class _Block(Block):  # type: ignore[misc] # the package has no types
    """A line of text. inscriptis' own looks at one character after the other, which takes longer than all the rest."""

    collapsable_whitespace: bool

    def merge_normal_text(self, text: str) -> None:
        before = " " if text[:1].isspace() and not self.collapsable_whitespace else ""
        words = " ".join(text.split())
        collapsed = f"{before}{words}{' ' if words and text[-1].isspace() else ''}"
        if text:
            self.collapsable_whitespace = text[-1].isspace()
        if collapsed:
            added = ("" if self._content else self.prefix.first) + collapsed
            self._content += added
            self.idx += len(added)

    def new_block(self) -> Block:
        self.prefix.consumed = False
        return _Block(idx=self.idx + 1, prefix=self.prefix)


def _render(tree: html.HtmlElement) -> str:
    """Return a tree as text, as `Inscriptis(tree, _CONFIG).get_text()` does."""
    state = HtmlDocumentState(_CONFIG)
    # inscriptis writes the canvas of a text into the styles that all texts share, so that two threads mix theirs.
    state.tags = [copy(_CONFIG.css["body"]).set_canvas(state.canvas)]
    state.canvas.current_block = _Block(0, Prefix())
    return str(_ENGINE._parse_html_tree(state, tree).get_text())  # noqa: SLF001 - the constructor makes the state itself


def _parse(source: str) -> html.HtmlElement | None:
    text = (source if source.isascii() else _MARKS.sub("", source).replace(_AND, "")).strip()
    # A declaration of an encoding is about bytes, which were decoded before.
    text = re.sub(r"^<\?xml[^>]{0,200}>", "", text)
    if _OVERLOADED.search(text):
        return None
    parser = html.HTMLParser(huge_tree=True, remove_pis=True, encoding="utf-8")
    try:
        tree = html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except (etree.ParserError, ValueError):
        return None
    return None if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log) else tree


def _prepare(elements: Iterable[html.HtmlElement]) -> None:
    """Mark quotes, write URLs behind the words of links, and remove what is not shown."""
    for element in elements:
        if not isinstance(element.tag, str):  # a comment
            continue
        if element.tag in _BLANK_CONTENT:
            _drop(element)
            continue
        names = " ".join(filter(None, map(element.get, ("class", "id", "name"))))
        if element.tag == "blockquote":
            _surround(element, _OPEN, _CLOSE)
        if names and _INTROS.search(names):
            _surround(element, _INTRO, _INTRO)
        elif names and _BOXES.search(names):
            _surround(element, _BOX_OPEN, _BOX_CLOSE)
        if element.tag == "a":
            _write_url(element)


def _drop(element: html.HtmlElement) -> None:
    parent = element.getparent()
    if parent is not None:
        element.drop_tree()


def _surround(element: html.HtmlElement, before: str, after: str) -> None:
    element.text = before + (element.text or "")
    last = element[-1] if len(element) else None
    if last is None:
        element.text += after
    else:
        last.tail = (last.tail or "") + after


def _write_url(link: html.HtmlElement) -> None:
    """Write the URL of a link behind its words, unless they are the URL: it may be all that the sender meant."""
    url = (link.get("href") or "").strip()
    if not url.lower().startswith(("http://", "https://")):
        return
    bare = re.sub(r"^https?://(?:www\.)?|/+$", "", url, flags=re.IGNORECASE).lower()
    words = "".join(str(piece) for piece in link.itertext()).lower()
    if not bare or bare in words or not words.strip():
        return
    last = link[-1] if len(link) else None
    if last is None:
        link.text = f"{link.text or ''} <{url}>"
    else:
        last.tail = f"{last.tail or ''} <{url}>"


def _depth(tree: html.HtmlElement) -> int:
    deepest, depth = 0, 0
    for event, _ in etree.iterwalk(tree, events=("start", "end")):
        depth += 1 if event == "start" else -1
        deepest = max(deepest, depth)
    return deepest


def _flatten(tree: html.HtmlElement) -> None:
    """Turn a tree that is too deep into one level of lines."""
    pieces = [str(piece) for piece in tree.itertext()]
    for child in list(tree):
        tree.remove(child)
    tree.text = None
    for piece in pieces:
        etree.SubElement(tree, "div").text = piece


def _hide_ampersands(tree: html.HtmlElement) -> None:
    """Keep Inscriptis from reading entities once more: it shows `&currency=` in a URL as `\u00a4cy=`."""
    for element in tree.iter():
        if element.text and isinstance(element.tag, str):
            element.text = element.text.replace("&", _AND)
        if element.tail:
            element.tail = element.tail.replace("&", _AND)


def _lines(text: str) -> Iterator[Line]:
    depth, box, intro = 0, 0, False
    for raw in text.split("\n"):
        if raw.isascii():  # the same, faster: without marks
            yield Line(_collapsed(raw), depth, boxed=box > 0, intro=intro)
            continue
        # A line belongs to what is open at its first word.
        lead = _LEAD.match(raw)
        before, after = (lead[0], raw[lead.end() :]) if lead else ("", raw)
        for mark in _MARKS.findall(before):
            depth, box, intro = _step(mark, depth, box, intro)
        yield Line(_collapsed(_MARKS.sub("", after)), depth, boxed=box > 0, intro=intro)
        for mark in _MARKS.findall(after):
            depth, box, intro = _step(mark, depth, box, intro)


def _collapsed(text: str) -> str:
    """Return a text with single plain spaces, and none at its ends."""
    is_plain = text.isascii() and "  " not in text and "\t" not in text
    return (text if is_plain else _SPACE.sub(" ", text)).strip()


def _step(mark: str, depth: int, box: int, intro: bool) -> tuple[int, int, bool]:
    if mark == _INTRO:
        return depth, box, not intro
    if mark in {_OPEN, _CLOSE}:
        return max(0, depth + (1 if mark == _OPEN else -1)), box, intro
    return depth, max(0, box + (1 if mark == _BOX_OPEN else -1)), intro
