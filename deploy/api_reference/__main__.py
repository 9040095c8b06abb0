"""Write the API reference in `docs/api/` from the OpenAPI documents of both services, or check that it is up to date.

The examples are in `docs/api/examples.json`: `tests/service/api/test_reference.py` records what the running services
answer, and fails if the file differs. `make api-reference` does both.
"""

import json
import re
import sys
from typing import Any, Final

from deploy.api_reference.examples import EXAMPLES, FOLDER
from deploy.api_reference.pages import Page, errors_page, pages_of
from services.conversations.app import create_app as create_conversations_app
from services.conversations.settings import ApiSettings as ConversationsSettings
from services.notifications.app import create_app as create_notifications_app
from services.notifications.settings import ApiSettings as NotificationsSettings

_CONTENTS: Final = re.compile(r"(<!-- generated: contents -->\n).*?(<!-- end -->)", re.DOTALL)
_SETTINGS: Final[dict[str, Any]] = {"auth_secret": ["a secret of thirty-two bytes, unused"], "docs": True}
_NOWHERE: Final = "postgresql://unused/unused"


def documents() -> dict[str, Any]:
    """Return the OpenAPI documents by the name of their service."""
    conversations = ConversationsSettings(conversations_database_url=_NOWHERE, redis_url=None, **_SETTINGS)
    notifications = NotificationsSettings(notifications_database_url=_NOWHERE, **_SETTINGS)
    return {
        "conversations": create_conversations_app(conversations).openapi(),
        "notifications": create_notifications_app(notifications).openapi(),
    }


def files() -> dict[str, str]:
    """Return the text of each file of the reference by its name, apart from the examples."""
    described, examples = documents(), json.loads(EXAMPLES.read_text(encoding="utf-8"))
    pages: list[Page] = [page for document in described.values() for page in pages_of(document, examples)]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    contents = "".join(page.contents() for page in pages)
    written = {name: json.dumps(document, indent=1, ensure_ascii=False) + "\n" for name, document in described.items()}
    return {
        "README.md": _CONTENTS.sub(lambda match: f"{match[1]}{contents}\n{match[2]}", readme),
        "errors.md": errors_page(pages, examples["errors"]),
        **{page.file: page.text() for page in pages},
        **{f"{name}.json": text for name, text in written.items()},
    }


def main() -> None:
    """Write the reference, or with `--check` exit with the names of the files that differ."""
    wanted = files()
    present = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir() if path != EXAMPLES}
    differing = sorted(name for name in {*wanted, *present} if wanted.get(name) != present.get(name))
    if "--check" in sys.argv[1:]:
        names = ", ".join(f"docs/api/{name}" for name in differing)
        sys.exit(f"Not up to date, run `make api-reference`: {names}" if differing else None)
    for name in differing:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()


if __name__ == "__main__":
    main()
