"""The message catalogues and the sources that they translate."""

from pathlib import Path

import pytest
from jinja2 import TemplateSyntaxError

from deploy.messages import check_messages, update_messages
from shared.translations import CatalogueError, find_language

PAGE = """{% trans %}
  Write to
  us{% endtrans %} {{ _("Send") }} {{ _("Hello, %(name)s", name=name) }}
{% trans count=n %}{{ count }} message{% pluralize %}{{ count }} messages{% endtrans %}"""
GERMAN = {
    "Write to us": "Schreiben Sie uns",
    "Send": "Senden",
    "Hello, %(name)s": "Guten Tag, %(name)s",
    "Not found": "Nicht gefunden",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "templates" / "parts").mkdir(parents=True)
    (tmp_path / "templates" / "parts" / "page.html").write_text(PAGE)
    (tmp_path / "errors.py").write_text('TITLE = gettext("Not found")')
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "page.js").write_text('_("Not for us")')
    return tmp_path


def catalogue(folder: Path, language: str = "de") -> Path:
    return folder / "locale" / f"{language}.po"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def add_to_page(folder: Path, more: str) -> None:
    """Append markup to the page."""
    edit(folder / "templates" / "parts" / "page.html", PAGE, PAGE + more)


def translate(folder: Path) -> None:
    """Make the catalogues, and translate the German one."""
    update_messages(folder)
    text = catalogue(folder).read_text()
    for english, german in GERMAN.items():
        assert f'msgid "{english}"\nmsgstr ""\n' in text
        text = text.replace(f'msgid "{english}"\nmsgstr ""\n', f'msgid "{english}"\nmsgstr "{german}"\n')
    text = text.replace('msgstr[0] ""', 'msgstr[0] "%(count)s Nachricht"')
    text = text.replace('msgstr[1] ""', 'msgstr[1] "%(count)s Nachrichten"')
    catalogue(folder).write_text(text)


def test_texts_of_templates_and_code_come_into_the_catalogues_and_are_then_translated(folder: Path) -> None:
    translate(folder)
    assert list(check_messages(folder)) == []
    translations = find_language(folder / "locale", ["de"]).translations
    assert translations.gettext("Write to us") == "Schreiben Sie uns"
    assert translations.ngettext("%(count)s message", "%(count)s messages", 2) == "%(count)s Nachrichten"
    assert "Not for us" not in catalogue(folder).read_text()


def test_one_english_word_has_two_translations_in_two_contexts(folder: Path) -> None:
    translate(folder)
    add_to_page(folder, '{% trans "to do" %}Send{% endtrans %} {{ pgettext("done", "Send") }}')
    update_messages(folder)
    for context, german in (("to do", "Bitte senden"), ("done", "Gesendet")):
        entry = f'msgctxt "{context}"\nmsgid "Send"\nmsgstr'
        edit(catalogue(folder), f'{entry} ""', f'{entry} "{german}"')
    assert list(check_messages(folder)) == []
    translations = find_language(folder / "locale", ["de"]).translations
    assert translations.pgettext("to do", "Send") == "Bitte senden"
    assert translations.pgettext("done", "Send") == "Gesendet"
    assert translations.gettext("Send") == "Senden"


def test_a_second_run_changes_nothing(folder: Path) -> None:
    translate(folder)
    before = catalogue(folder).read_bytes()
    update_messages(folder)
    assert catalogue(folder).read_bytes() == before


def test_an_empty_file_is_a_new_language_which_may_be_incomplete(folder: Path) -> None:
    translate(folder)
    catalogue(folder, "pl").touch()
    update_messages(folder)
    assert "nplurals=3" in catalogue(folder, "pl").read_text()
    assert 'msgid "Send"\nmsgstr ""\n' in catalogue(folder, "pl").read_text()
    assert list(check_messages(folder)) == []


def test_texts_that_were_removed_disappear_and_similar_ones_are_not_guessed(folder: Path) -> None:
    translate(folder)
    (folder / "errors.py").write_text('TITLE = gettext("Not found!")')
    assert [fault.split(": ", 1)[1] for fault in check_messages(folder)] == [
        "missing: 'Not found!'",
        "obsolete: 'Not found'",
    ]
    update_messages(folder)
    assert "Nicht gefunden" not in catalogue(folder).read_text()
    assert "Senden" in catalogue(folder).read_text()
    assert [fault.split(": ", 1)[1] for fault in check_messages(folder)] == ["not translated: 'Not found!'"]


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ('msgstr "Senden"', 'msgstr ""', "not translated: 'Send'"),
        ('msgid "Send"', '#, fuzzy\nmsgid "Send"', "not translated: 'Send'"),
        ('"%(count)s Nachricht"', '""', "not translated: '%(count)s message'"),
        ("Tag, %(name)s", "Tag", "other placeholders than in 'Hello, %(name)s': 'Guten Tag'"),
        ("Tag, %(name)s", "Tag, %(nmae)s", "other placeholders"),
        ("Tag, %(name)s", "Tag, %(name)", "other placeholders"),
        ("Senden", "100 % senden", "other placeholders than in 'Send'"),
        ("Senden", "{send}", "other placeholders than in 'Send'"),
        ("%(count)s Nachrichten", "%(anzahl)s Nachrichten", "other placeholders than in '%(count)s message'"),
        ('msgid "Send"', 'msgid "Sende"', "missing: 'Send'"),
        ('msgstr "Senden"', 'msgstr "Senden', "not up to date, run `make messages`"),
    ],
)
def test_a_fault_in_a_catalogue_is_reported(folder: Path, right: str, wrong: str, fault: str) -> None:
    translate(folder)
    edit(catalogue(folder), right, wrong)
    faults = list(check_messages(folder))
    assert faults[0].startswith(f"{catalogue(folder)}: ")
    assert fault in faults[0]


def test_a_plural_that_was_added_to_the_sources_is_missing(folder: Path) -> None:
    translate(folder)
    add_to_page(folder, '{{ ngettext("Send", "Send all", n) }}')
    assert any("missing: 'Send'" in fault for fault in check_messages(folder))


def test_a_lone_percent_sign_in_the_sources_is_reported(folder: Path) -> None:
    add_to_page(folder, '{{ _("50% off") }}')
    update_messages(folder)
    assert "percent sign not written as %%: '50% off'" in "\n".join(check_messages(folder))


def test_a_missing_german_catalogue_and_broken_files_are_rejected(folder: Path) -> None:
    assert list(check_messages(folder)) == [f"{folder}: locale/de.po is missing"]
    translate(folder)
    edit(catalogue(folder), 'msgstr "Senden"', "")
    with pytest.raises(CatalogueError, match=r"de\.po"):
        list(check_messages(folder))
    add_to_page(folder, "{% if %}")
    with pytest.raises(TemplateSyntaxError):
        update_messages(folder)


def test_a_folder_without_texts_needs_no_catalogue(tmp_path: Path) -> None:
    assert list(check_messages(tmp_path)) == []
