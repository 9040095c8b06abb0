"""The words of a reader's language: gettext catalogues, read as they are written, and templates that speak them.

A folder holds one `.po` file for each language but English, whose words are the msgids.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

from babel import Locale, UnknownLocaleError
from babel.messages.mofile import write_mo
from babel.messages.pofile import PoFileError, read_po
from babel.support import NullTranslations, Translations
from jinja2 import Environment

ENGLISH = Locale("en")
_UNTRANSLATED = NullTranslations()


class CatalogueError(Exception):
    """A catalogue that cannot be read. `str()` is one line that names the file."""


@dataclass(frozen=True, slots=True)
class Language:
    """How a reader is spoken to: words by `translations`, dates, numbers and direction by `locale`.

    Readers of de-AT and de-CH share the words of `de.po`, and `translations` is the same object for both.
    """

    locale: Locale
    translations: NullTranslations


def find_language(folder: Path, names: Iterable[str | None]) -> Language:
    """Return the first of `names` (`de`, `de-AT`, `pt_BR`) that `folder` has a catalogue for or is English, or English.

    A territory without a catalogue of its own has its language's. What Babel cannot write every date and place in, as
    English in the Shavian alphabet, is written as its plain language. Names may be anything: what is no locale is
    passed over. The folder is read at the first call; raises CatalogueError then, and OSError without a folder.
    """
    catalogues = read_catalogues(folder)
    for locale in _known_locales(names):
        translations = catalogues.get(str(locale)) or catalogues.get(locale.language)
        if translations or locale.language == ENGLISH.language:
            return Language(_complete(locale), translations or _UNTRANSLATED)
    return Language(ENGLISH, _UNTRANSLATED)


@cache
def read_catalogues(folder: Path) -> Mapping[str, Translations]:
    """Read every catalogue of `folder`, once in a process. Raises CatalogueError, and OSError without a folder."""
    return MappingProxyType({path.stem: _read(path) for path in folder.iterdir() if path.suffix == ".po"})


def install_translations(environment: Environment, translations: NullTranslations) -> None:
    """Let the templates of `environment` speak: `_()`, `ngettext()` and `{% trans %}`, its white space collapsed.

    A template is compiled with its words, so each language needs an environment of its own: keep one for each
    `translations`. Words are format strings (`%(name)s`, a per cent sign is `%%`) and markup, their values are escaped.
    """
    environment.add_extension("jinja2.ext.i18n")
    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_translations(translations, newstyle=True)  # type: ignore[attr-defined]


def _known_locales(names: Iterable[str | None]) -> Iterator[Locale]:
    for name in names:
        try:
            yield Locale.parse((name or "").replace("-", "_"))
        except (ValueError, UnknownLocaleError):
            continue


def _complete(locale: Locale) -> Locale:
    # The name of no known territory; where it is missing, Babel cannot name a zone by its place.
    return next(one for one in (locale, Locale(locale.language), ENGLISH) if "ZZ" in one.territories)


def _read(path: Path) -> Translations:
    compiled = BytesIO()
    try:
        with path.open("rb") as file:
            write_mo(compiled, read_po(file, locale=str(Locale.parse(path.stem)), abort_invalid=True))
        compiled.seek(0)
        return Translations(compiled)
    except PoFileError as error:
        fault = str(error).removesuffix(f" on {error.lineno}")  # Babel counts lines from 0
        raise CatalogueError(f"{path}, line {error.lineno + 1}: {fault}") from None
    except (ValueError, LookupError, UnknownLocaleError) as error:
        raise CatalogueError(f"{path} is not a catalogue: {error}") from None
