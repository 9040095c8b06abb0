"""A page as a browser without scripts shows it: elements to inspect, forms to fill in and submit."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx2

_VOID = frozenset({"meta", "link", "input", "img", "br", "use", "wbr"})
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
        """Return the visible text, white space collapsed."""
        return " ".join("".join(self.texts()).split())

    @property
    def value(self) -> str:
        """Return a text field's content, without the line break that may follow its tag."""
        return "".join(child for child in self.children if isinstance(child, str)).removeprefix("\n")

    def all(self, tag: str | None = None, **attributes: str) -> "list[Element]":
        """Return the descendants with this tag and these attributes."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            element
            for element in self.walk()
            if (tag is None or element.tag == tag)
            and all(element.attributes.get(name) == value for name, value in wanted.items())
        ]

    def one(self, tag: str | None = None, **attributes: str) -> "Element":
        """Return the only such descendant."""
        [element] = self.all(tag, **attributes)
        return element

    def of_class(self, name: str) -> "list[Element]":
        return [element for element in self.walk() if name in element.classes]

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
                yield "" if child.tag in {"span", "bdi", "a", "kbd", "strong", "wbr"} else " "


class Page(HTMLParser):
    """A parsed page. Parsing fails when an element is not closed correctly or an id is used twice."""

    def __init__(self, answer: httpx2.Response) -> None:
        super().__init__()
        self.answer = answer
        self.root = Element("root", {})
        self._open = [self.root]
        self.feed(answer.text)
        assert self._open == [self.root], self._open[-1]
        ids = [element["id"] for element in self.root.all() if "id" in element]
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

    def by_id(self, element_id: str) -> Element:
        return self.root.one(id=element_id)

    def link(self, text: str) -> str:
        """Return the URL of the links with this text."""
        [target] = {link["href"] for link in self.root.all("a") if link.text == text}
        return urljoin(str(self.answer.url), target)

    def fields(self, form: Element) -> dict[str, Any]:
        """Return what a form sends without its button, including fields elsewhere in the page that belong to it."""
        inside = [field for field in form.all() if "form" not in field]
        elsewhere = self.root.all(form=form.attributes.get("id", "-"))
        values: dict[str, Any] = {}
        for control in [*inside, *elsewhere]:
            if "name" not in control or control.tag == "button" or control.attributes.get("type") == "file":
                continue
            if control.tag == "select":
                chosen = [option for option in control.all("option") if "selected" in option] or control.all("option")[
                    :1
                ]
                values[control["name"]] = chosen[0]["value"]
            elif control.tag == "textarea":
                values[control["name"]] = control.value
            elif control.attributes.get("type") == "checkbox":
                if "checked" in control:
                    values.setdefault(control["name"], []).append(control["value"])
            elif control["name"] in values:
                before = values[control["name"]]
                values[control["name"]] = [*(before if isinstance(before, list) else [before]), control["value"]]
            else:
                values[control["name"]] = control.attributes.get("value", "")
        return values
