"""Update the translation catalogues in `locale/` from the sources, or check that they are up to date.

Translators edit the `.po` files. Each file adds a language to its folder.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import generate_po, read_po

from shared.translations import CatalogueError, read_catalogues

SERVICES = Path(__file__).parent.parent / "services"
FOLDERS = (
    SERVICES / "conversations" / "web",
    SERVICES / "conversations" / "privacy",
    SERVICES / "notifications" / "mail",
    SERVICES / "notifications" / "web",
)
COMPLETE = "de"
"""Every folder has a complete catalogue of this language."""

METHODS = [("**.py", "python"), ("templates/**", "jinja2")]
OPTIONS = {"templates/**": {"trimmed": "true", "newstyle_gettext": "true", "silent": "false"}}
# Babel's own header has dates and versions, which would differ from one run to the next.
HEADER = """\
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"Language: {language}\\n"
"Plural-Forms: {plural_forms}\\n"

"""
PLACEHOLDER = re.compile(r"%%|%\(\w+\)[a-z]|\{\w*\}|%")


def update_messages(folder: Path) -> None:
    """Add new messages of the sources to the catalogues of `folder`, and remove obsolete ones.

    Existing translations stay. Nothing is guessed, and a second run changes nothing.
    """
    (folder / "locale").mkdir(exist_ok=True)
    (folder / "locale" / f"{COMPLETE}.po").touch()
    sources = _extract(folder)
    for path in _catalogues(folder):
        path.write_text(_updated(_read(path), sources), encoding="utf-8")


def check_messages(folder: Path) -> Iterator[str]:
    """Yield the faults of the catalogues of `folder`, one line each. Raises CatalogueError for a broken one."""
    sources = _extract(folder)
    yield from (f"{folder}: {fault}" for message in sources for fault in _malformed(message))
    paths = _catalogues(folder)
    if sources and folder / "locale" / f"{COMPLETE}.po" not in paths:
        yield f"{folder}: locale/{COMPLETE}.po is missing"
    if paths:
        read_catalogues(folder / "locale")
    for path in paths:
        catalogue, text = _read(path), path.read_text(encoding="utf-8")
        faults = [fault for message in catalogue if message.id for fault in _placeholder_faults(message)]
        if path.stem == COMPLETE:
            faults += [f"not translated: {_text(message)!r}" for message in catalogue if not _is_translated(message)]
        faults += [f"missing: {_text(message)!r}" for message in sources if message.id and not _has(catalogue, message)]
        faults += [
            f"obsolete: {_text(message)!r}" for message in catalogue if message.id and not _has(sources, message)
        ]
        if not faults and _updated(catalogue, sources) != text:
            faults = ["not up to date, run `make messages`"]
        yield from (f"{path}: {fault}" for fault in faults)


def _extract(folder: Path) -> Catalog:
    messages = Catalog()
    for _, _, message, _, context in extract_from_dir(folder, METHODS, OPTIONS):
        messages.add(message, context=context)
    return messages


def _catalogues(folder: Path) -> list[Path]:
    return sorted((folder / "locale").glob("*.po"))


def _read(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file, locale=path.stem, ignore_obsolete=True, abort_invalid=True)


def _updated(catalogue: Catalog, sources: Catalog) -> str:
    catalogue.update(sources, no_fuzzy_matching=True)
    head = HEADER.format(language=catalogue.locale_identifier, plural_forms=catalogue.plural_forms)
    body = "".join(
        generate_po(catalogue, ignore_obsolete=True, no_location=True, omit_header=True, sort_by="message", width=100)
    )
    return (head + body).rstrip("\n") + "\n"


def _has(catalogue: Catalog, message: Message) -> bool:
    """Return whether `catalogue` has the message, with the same plural."""
    entry = catalogue.get(message.id, message.context)
    return entry is not None and entry.id == message.id


def _is_translated(message: Message) -> bool:
    return not message.id or (all(_forms(message.string)) and not message.fuzzy)


def _malformed(message: Message) -> Iterator[str]:
    if any("%" in _placeholders(form) for form in _forms(message.id)):
        yield f"percent sign not written as %%: {_text(message)!r}"


def _placeholder_faults(message: Message) -> Iterator[str]:
    """Yield translations with other placeholders than the English text.

    A plural form may omit a placeholder that one English form omits.
    """
    expected = [_placeholders(form) for form in _forms(message.id)]
    for form in filter(None, _forms(message.string)):
        placeholders = _placeholders(form)
        if not set.intersection(*expected) <= placeholders <= set[str]().union(*expected):
            yield f"other placeholders than in {_text(message)!r}: {form!r}"


def _placeholders(text: str) -> set[str]:
    """Return the placeholders of a text. `%` stands for a percent sign that starts none."""
    return set(PLACEHOLDER.findall(text)) - {"%%"}


def _forms(text: str | list[str] | tuple[str, ...] | None) -> list[str]:
    return [text or ""] if isinstance(text, str | None) else list(text)


def _text(message: Message) -> str:
    return _forms(message.id)[0]


def main() -> None:
    """Update the catalogues of both services, or with `--check` exit with a list of their faults."""
    folders = [folder for folder in FOLDERS if folder.is_dir()]
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(fault for folder in folders for fault in check_messages(folder)) or None)
    for folder in folders:
        update_messages(folder)


if __name__ == "__main__":
    try:
        main()
    except CatalogueError as error:
        sys.exit(str(error))
