"""A page as a browser without scripts has it: elements to look at, forms to fill in and send."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx2

_VOID = frozenset({"meta", "link", "input", "img", "br", "use"})
_UNSEEN = frozenset({"style", "template", "script"})


@dataclass
class Element:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    children: "list[Element | str]" = field(default_factory=list)

    def __getitem__(self, name: str) -> str:
        return self.attributes[name]

    def __contains__(self, name: str) -> bool:
        return name in self.attributes

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())

    @property
    def text(self) -> str:
        """Return what a reader sees, its white space collapsed."""
        return " ".join("".join(self.texts()).split())

    @property
    def value(self) -> str:
        """Return a text field's content; a line break behind its tag is none of it."""
        return "".join(child for child in self.children if isinstance(child, str)).removeprefix("\n")

    def all(self, tag: str | None = None, **attributes: str) -> "list[Element]":
        """Return the elements within that are of a tag and have attributes."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            one
            for one in self.walk()
            if (tag is None or one.tag == tag) and all(one.attributes.get(name) == it for name, it in wanted.items())
        ]

    def one(self, tag: str | None = None, **attributes: str) -> "Element":
        """Return the only such element."""
        [found] = self.all(tag, **attributes)
        return found

    def of_class(self, name: str) -> "list[Element]":
        return [one for one in self.walk() if name in one.classes]

    def walk(self) -> "Iterator[Element]":
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child.walk()

    def texts(self) -> Iterator[str]:
        if self.tag in _UNSEEN:
            return
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                yield from child.texts()
                yield "" if child.tag in {"span", "bdi", "a", "kbd", "strong"} else " "


class Page(HTMLParser):
    """A parsed page. It fails on elements that are not closed as they were opened."""

    def __init__(self, answer: httpx2.Response) -> None:
        super().__init__()
        self.answer = answer
        self.root = Element("root", {})
        self._open = [self.root]
        self.feed(answer.text)
        assert self._open == [self.root], self._open[-1]
        ids = [one["id"] for one in self.root.all() if "id" in one]
        assert len(ids) == len(set(ids)), ids

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), (tag, attrs)
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, (self._open[-1].tag, tag)
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)

    @property
    def text(self) -> str:
        return self.root.one("main").text

    def by_id(self, identity: str) -> Element:
        return self.root.one(id=identity)

    def link(self, words: str) -> str:
        """Return where the links with these words lead."""
        [found] = {one["href"] for one in self.root.all("a") if one.text == words}
        return urljoin(str(self.answer.url), found)

    def fields(self, form: Element) -> dict[str, Any]:
        """Return what a form sends, without a button: also what stands elsewhere in the page and belongs to it."""
        inside = [one for one in form.all() if "form" not in one]
        belonging = self.root.all(form=form.attributes.get("id", "-"))
        given: dict[str, Any] = {}
        for one in [*inside, *belonging]:
            if "name" not in one or one.tag == "button":
                continue
            if one.tag == "select":
                chosen = [option for option in one.all("option") if "selected" in option] or one.all("option")[:1]
                given[one["name"]] = chosen[0]["value"]
            elif one.tag == "textarea":
                given[one["name"]] = one.value
            elif one.attributes.get("type") == "checkbox":
                if "checked" in one:
                    given.setdefault(one["name"], []).append(one["value"])
            elif one["name"] in given:
                before = given[one["name"]]
                given[one["name"]] = [*(before if isinstance(before, list) else [before]), one["value"]]
            else:
                given[one["name"]] = one["value"]
        return given
