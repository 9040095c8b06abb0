"""HTML becomes the text that inscriptis makes of it, and nobody else's."""

from typing import Any

import pytest
from inscriptis.html_engine import Inscriptis
from inscriptis.model.html_document_state import HtmlDocumentState

from services.notifications.inbound.parsing import html_text
from services.notifications.inbound.parsing.html_text import html_lines


@pytest.mark.parametrize(
    "source",
    [
        "<p> one  two\n<b> three</b> </p>four <i>five </i> six",
        "<div>a<div> </div><div>\u2003b\x1c c</div></div> <br> d<br>",
        "<ul><li> one<li><b>two </b> three<ul><li>four</ul></ul><ol><li></li><li>x</ol>",
        "a <pre> b  c\n d</pre> e <blockquote> f <p>g</p></blockquote>",
        "<table><tr><td> a  b</td><td>c</td></tr><tr><td>d</td></tr></table> e",
    ],
)
def test_the_text_is_that_of_inscriptis(source: str) -> None:
    trees = html_text._parse(source), html_text._parse(source)  # noqa: SLF001 - each is used up
    assert html_text._render(trees[0]) == Inscriptis(trees[1], html_text._CONFIG).get_text()  # noqa: SLF001 - as above


def test_a_text_that_another_thread_begins_at_the_same_time_stays_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(HtmlDocumentState):  # type: ignore[misc] # the package has no types
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            HtmlDocumentState(config)  # what the other thread does

    monkeypatch.setattr(html_text, "HtmlDocumentState", Interrupted)
    assert [line.text for line in html_lines("<p>mine</p>") if line.text] == ["mine"]
