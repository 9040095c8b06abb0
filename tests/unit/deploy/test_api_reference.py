"""The pages of the API reference: headings and links."""

import re
from pathlib import Path

from deploy.api_reference.examples import FOLDER
from deploy.api_reference.pages import slug

_CODE = re.compile(r"```.*?```", re.DOTALL)
_LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")


def headings(page: Path) -> list[str]:
    text = _CODE.sub("", page.read_text())
    return [slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]


def test_the_headings_of_a_page_differ_and_every_link_leads_to_one() -> None:
    pages = sorted(FOLDER.glob("*.md"))
    assert len(pages) > 10
    for page in pages:
        assert len(headings(page)) == len(set(headings(page))), page.name
        for file, anchor in set(_LINK.findall(_CODE.sub("", page.read_text()))):
            target = (FOLDER / file) if file else page
            assert target.exists(), (page.name, file)
            assert not anchor or anchor in headings(target), (page.name, file, anchor)
