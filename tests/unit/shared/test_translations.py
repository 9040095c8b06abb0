from pathlib import Path

import pytest
from jinja2 import DictLoader
from markupsafe import Markup

from shared.translations import CatalogueError, Language, TranslatedEnvironment, find_language

GERMAN = """\
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Language: de\\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\\n"

msgid "Send"
msgstr "Senden"

msgid "Hello, %(name)s"
msgstr "Grüß Gott, %(name)s"

msgid "100%% of it"
msgstr "100 %% davon"

msgid "%(num)s message"
msgid_plural "%(num)s messages"
msgstr[0] "%(num)s Nachricht"
msgstr[1] "%(num)s Nachrichten"

#, fuzzy
msgid "Guessed"
msgstr "Geraten"

msgid "Not yet"
msgstr ""

#~ msgid "Gone"
#~ msgstr "Weg"
"""
POLISH = """\
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=3; plural=(n==1 ? 0 : n%10>=2 && n%10<=4 && (n%100<12 || n%100>14) ? 1 : 2);\\n"

msgid "%(num)s message"
msgid_plural "%(num)s messages"
msgstr[0] "%(num)s wiadomość"
msgstr[1] "%(num)s wiadomości"
msgstr[2] "%(num)s wiadomości!"
"""
HEBREW = 'msgid "Send"\nmsgstr "שליחה"\n'
HEADER = GERMAN[: GERMAN.index('msgid "Send"')]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("de", GERMAN), ("pl", POLISH), ("he", HEBREW), ("pt_BR", HEADER), ("pt", HEADER)):
        (tmp_path / f"{name}.po").write_text(text, encoding="utf-8")
    return tmp_path


def rendered(language: Language, template: str, **values: object) -> str:
    loader = DictLoader({"page": template, "macros": MACROS})
    environment = TranslatedEnvironment(language.translations, loader=loader, trim_blocks=False)
    return environment.get_template("page").render(values)


MACROS = '{% macro send() %}{{ _("Send") }}{% endmacro %}'


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["de"], "de"),
        (["de-AT"], "de_AT"),
        (["de_AT", "pl"], "de_AT"),
        (["ja-JP", "pl"], "pl"),
        (["en-GB", "de"], "en_GB"),
        (["en-Shaw", "de"], "en"),
        (["en_Shaw_GB"], "en"),
        (["ja", "xx", None, "", "../../etc/passwd", "de\0", "\ud800", "😀" * 300], "en"),
        ([], "en"),
    ],
)
def test_a_reader_gets_the_first_language_that_has_a_catalogue(
    folder: Path, names: list[str | None], found: str
) -> None:
    language = find_language(folder, names)
    assert str(language.locale) == found
    assert language.translations.gettext("Send") == ("Senden" if found.startswith("de") else "Send")


def test_territories_share_the_catalogue_of_their_language_unless_they_have_their_own(folder: Path) -> None:
    german, austrian = find_language(folder, ["de"]), find_language(folder, ["de-AT"])
    assert german.translations is austrian.translations
    portuguese, brazilian = find_language(folder, ["pt-PT"]), find_language(folder, ["pt-BR"])
    assert portuguese.translations is not brazilian.translations


def test_fuzzy_missing_and_obsolete_translations_are_shown_in_english(folder: Path) -> None:
    translations = find_language(folder, ["de"]).translations
    for english in ("Guessed", "Not yet", "Gone"):
        assert translations.gettext(english) == english


def test_every_language_has_its_own_plural_rule(folder: Path) -> None:
    template = '{{ ngettext("%(num)s message", "%(num)s messages", n) }}'
    for name, counted in (
        ("en", ["0 messages", "1 message", "2 messages", "5 messages"]),
        ("de", ["0 Nachrichten", "1 Nachricht", "2 Nachrichten", "5 Nachrichten"]),
        ("pl", ["0 wiadomości!", "1 wiadomość", "2 wiadomości", "5 wiadomości!"]),
    ):
        language = find_language(folder, [name])
        assert [rendered(language, template, n=n) for n in (0, 1, 2, 5)] == counted


def test_the_text_direction_is_the_locales(folder: Path) -> None:
    assert find_language(folder, ["he-IL"]).locale.text_direction == "rtl"
    assert find_language(folder, ["de"]).locale.text_direction == "ltr"


def test_templates_translate_blocks_calls_and_macros_and_escape_values(folder: Path) -> None:
    template = """{% from "macros" import send %}{{ send() }}: {{ _("Hello, %(name)s", name=name) }}
{% trans %}Hello,
    {{ name }}{% endtrans %}
{{ _("100%% of it") }}"""
    german = rendered(find_language(folder, ["de"]), template, name="<b>%(x)s")
    assert german == "Senden: Grüß Gott, &lt;b&gt;%(x)s\nGrüß Gott, &lt;b&gt;%(x)s\n100 % davon"
    english = rendered(find_language(folder, []), template, name="Mila")
    assert english == "Send: Hello, Mila\nHello, Mila\n100% of it"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("<a \"b\" 'c'>&", "&lt;a &#34;b&#34; &#39;c&#39;&gt;&amp;"), (Markup("<b>"), "<b>"), (7, "7"), (None, "None")],
)
def test_templates_escape_all_values_but_markup(folder: Path, value: object, shown: str) -> None:
    in_macro = "{% macro quote(text) %}<q>{{ text }}</q>{% endmacro %}{{ quote(value) }}"
    page = rendered(find_language(folder, []), "{{ value }}" + in_macro, value=value)
    assert page == f"{shown}<q>{shown}</q>"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('msgid "Send"\n\nmsgid "More"\nmsgstr "Mehr"\n', "line 1: missing msgstr for msgid 'Send'"),
        ('msgid "Send"\nmsgsr "Senden"\n', "line 2: Unknown or misformatted keyword"),
        (HEADER.replace("(n != 1)", "n n"), "is not a valid catalogue"),
        (HEADER.replace("UTF-8", "utf-99"), "is not a valid catalogue"),
        ("msgid", "de.po"),
    ],
)
def test_a_broken_catalogue_is_reported_with_its_fault(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "de.po").write_text(text, encoding="utf-8")
    with pytest.raises(CatalogueError, match=r"de\.po") as error:
        find_language(tmp_path, [])
    assert fault in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_catalogue_in_another_encoding_or_of_an_unknown_language_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "de.po").write_bytes(GERMAN.encode("latin-1"))
    with pytest.raises(CatalogueError, match="is not a valid catalogue"):
        find_language(tmp_path, ["de"])
    (tmp_path / "de.po").rename(tmp_path / "klingon.po")
    with pytest.raises(CatalogueError, match=r"klingon\.po"):
        find_language(tmp_path, ["de"])


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find_language(tmp_path / "locale", ["en"])
