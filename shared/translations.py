"""Translations: gettext catalogues, read directly from `.po` files, and their use in templates.

A folder contains a `.po` file for each language except English, whose texts are the msgids.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

from babel import Locale, UnknownLocaleError
from babel.messages.mofile import write_mo
from babel.messages.pofile import PoFileError, read_po
from babel.support import NullTranslations, Translations
from jinja2 import Environment, StrictUndefined, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.visitor import NodeTransformer
from markupsafe import Markup, _escape_inner, escape  # type: ignore[attr-defined] # the function in C

ENGLISH = Locale("en")
_UNTRANSLATED = NullTranslations()
_OPTIONS: dict[str, Any] = {
    "autoescape": True,
    "undefined": StrictUndefined,
    "trim_blocks": True,
    "lstrip_blocks": True,
    "auto_reload": False,
}


class CatalogueError(Exception):
    """An invalid catalogue. `str()` is one line that names the file."""


@dataclass(frozen=True, slots=True)
class Language:
    """A reader's language: `translations` for texts, `locale` for dates, numbers and text direction.

    de-AT and de-CH share `de.po`, and have the same `translations` object.
    """

    locale: Locale
    translations: NullTranslations


def find_language(folder: Path, names: Iterable[str | None]) -> Language:
    """Return the first supported language of `names` (`de`, `de-AT`, `pt_BR`), else English.

    A language is supported if it is English or `folder` has a catalogue for it. Territories without their own catalogue
    use that of their language. Locales with incomplete data in Babel, such as English in the Shavian alphabet, are
    replaced by their plain language. Invalid names are ignored. The first call reads the folder, and raises
    CatalogueError, or OSError without a folder.
    """
    return _find_language(folder, tuple(names))


@lru_cache(maxsize=1000)
def _find_language(folder: Path, names: Iterable[str | None]) -> Language:
    catalogues = read_catalogues(folder)
    for locale in _known_locales(names):
        translations = catalogues.get(str(locale)) or catalogues.get(locale.language)
        if translations or locale.language == ENGLISH.language:
            return Language(_complete(locale), translations or _UNTRANSLATED)
    return Language(ENGLISH, _UNTRANSLATED)


@cache
def read_catalogues(folder: Path) -> Mapping[str, Translations]:
    """Read all catalogues of `folder`, once per process. Raises CatalogueError, or OSError without a folder."""
    return MappingProxyType({path.stem: _read(path) for path in folder.iterdir() if path.suffix == ".po"})


def _escaped(value: Any) -> str:
    """Return a value as text of a page, without Jinja's step of marking each as escaped, a tenth of a page's time."""
    if type(value) is str:
        return _escape_inner(value)
    return value if type(value) is Markup else escape(value)


class _CodeGenerator(CodeGenerator):
    """Compiles templates whose values are written by `_escaped`."""

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if frame.eval_ctx.autoescape and not frame.eval_ctx.volatile and finalize.src is None:
            self.write("environment.escaped(")
        else:
            super()._output_child_pre(node, frame, finalize)


class TranslatedEnvironment(Environment):
    """A Jinja environment for one language: its templates have `_()`, `ngettext()` and `{% trans %}`.

    Texts are markup and format strings (`%(name)s`; write `%%` for a percent sign), with collapsed white space.
    Inserted values are escaped. A text without a plural is translated once, when its template is compiled. Lines that
    have only a block leave no trace, and an unknown variable is an error. `options` are Jinja's own.
    """

    code_generator_class = _CodeGenerator
    escaped = staticmethod(_escaped)

    def __init__(self, translations: NullTranslations, **options: Any) -> None:
        extensions = ["jinja2.ext.i18n", *options.pop("extensions", ())]
        super().__init__(extensions=extensions, **(_OPTIONS | options))
        self.policies["ext.i18n.trimmed"] = True
        self.install_gettext_translations(translations, newstyle=True)  # type: ignore[attr-defined]
        self._translations = translations

    def _generate(self, source: nodes.Template, *arguments: Any, **options: Any) -> str:
        return super()._generate(_Translator(self._translations).visit(source), *arguments, **options)


class _Translator(NodeTransformer):
    """Replaces calls of `gettext` by their results, which Jinja would look up for each call."""

    def __init__(self, translations: NullTranslations) -> None:
        self._translations = translations

    def visit_Call(self, call: nodes.Call) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(call)
        if not isinstance(call.node, nodes.Name) or call.node.name not in {"_", "gettext"}:
            return call
        [text] = call.args
        if not isinstance(text, nodes.Const):
            return call
        translated = nodes.MarkSafeIfAutoescape(nodes.Const(self._translations.gettext(text.value)))
        values = nodes.Dict([nodes.Pair(nodes.Const(keyword.key), keyword.value) for keyword in call.kwargs])
        return nodes.Mod(translated, values, lineno=call.lineno)


def _known_locales(names: Iterable[str | None]) -> Iterator[Locale]:
    for name in names:
        try:
            yield Locale.parse((name or "").replace("-", "_"))
        except (ValueError, UnknownLocaleError):
            continue


@cache  # so that equal locales are one object, which callers with caches compare at once
def _complete(locale: Locale) -> Locale:
    # ZZ is "unknown region". In locales without a name for it, Babel cannot name time zones by place.
    return next(known for known in (locale, Locale(locale.language), ENGLISH) if "ZZ" in known.territories)


def _read(path: Path) -> Translations:
    compiled = BytesIO()
    try:
        with path.open("rb") as file:
            write_mo(compiled, read_po(file, locale=str(Locale.parse(path.stem)), abort_invalid=True))
        compiled.seek(0)
        return Translations(compiled)
    except PoFileError as error:
        reason = str(error).removesuffix(f" on {error.lineno}")  # Babel counts lines from 0
        raise CatalogueError(f"{path}, line {error.lineno + 1}: {reason}") from None
    except (ValueError, LookupError, UnknownLocaleError) as error:
        raise CatalogueError(f"{path} is not a valid catalogue: {error}") from None
