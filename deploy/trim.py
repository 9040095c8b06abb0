"""Remove from a folder of packages what no process uses: `python -m deploy.trim FOLDER`, for deploy/Dockerfile only."""

import pickle
import sys
from collections.abc import Iterable
from pathlib import Path
from shutil import rmtree
from typing import Final

from babel.core import get_global

SERVICES: Final = Path(__file__).parents[1] / "services"
# Relative to the folder of packages: sources of compiled modules, stubs, tests, and parts of libraries.
UNUSED: Final = (
    *(f"**/*.{ending}" for ending in ("c", "cpp", "h", "hpp", "map", "pxd", "pxi", "pyi", "pyx")),
    *(f"*/{name}" for name in ("test", "tests", "testing")),
    *("lxml/objectify*.so", "lxml/html/_difflib*.so", "lxml/html/diff.py", "lxml/isoschematron"),
    # What Pillow needs to draw text; pictures are only read, made smaller and written.
    *("PIL/_imagingft*.so", *(f"pillow.libs/lib{name}*" for name in ("freetype", "harfbuzz", "brotli", "png"))),
)


def remove_unused(packages: Path) -> None:
    """Remove the files and folders of `UNUSED` from a folder of packages."""
    for pattern in UNUSED:
        for path in list(packages.glob(pattern)):
            rmtree(path) if path.is_dir() else path.unlink()


def empty_locales(folder: Path, languages: Iterable[str]) -> None:
    """Empty Babel's data of all locales but those of `languages`, with what they inherit from.

    Users may have any locale, so all stay known by name. Nothing is formatted in a language without a catalogue
    (`shared/translations.py:find_language`).
    """
    parents = get_global("parent_exceptions")
    kept = {"root", *languages, *(parents[language] for language in languages if language in parents)}
    for path in folder.glob("*.dat"):
        if path.stem.partition("_")[0] not in kept:
            path.unlink()  # its content may be shared by hard links
            path.write_bytes(pickle.dumps({}))


def catalogue_languages(services: Path) -> set[str]:
    """Return the languages that have a catalogue, and English, which needs none."""
    return {"en", *(path.stem.partition("_")[0] for path in services.glob("**/locale/*.po"))}


if __name__ == "__main__":
    packages = Path(sys.argv[1])
    remove_unused(packages)
    empty_locales(packages / "babel/locale-data", catalogue_languages(SERVICES))
