import pickle
from pathlib import Path

import pytest
from babel import localedata

from deploy.trim import SERVICES, catalogue_languages, empty_locales, remove_unused

LOCALES = Path(localedata.__file__).with_name("locale-data")


def test_the_languages_of_the_catalogues_keep_their_data_and_all_others_their_names(tmp_path: Path) -> None:
    names = ("root", "de", "de_AT", "en_GB", "ja", "ja_JP", "nb", "no")
    for name in names:
        (tmp_path / f"{name}.dat").write_bytes((LOCALES / f"{name}.dat").read_bytes())
    assert {"de", "en", "es", "fr", "nl"} <= catalogue_languages(SERVICES)
    empty_locales(tmp_path, {"en", "de", "nb"})
    emptied = {name for name in names if (tmp_path / f"{name}.dat").read_bytes() == pickle.dumps({})}
    assert emptied == {"ja", "ja_JP"}


@pytest.mark.parametrize("name", ["lxml/objectify.cpython-311.so", "greenlet/greenlet.h", "tornado/test/x.py"])
def test_what_no_process_uses_is_removed_and_the_rest_stays(tmp_path: Path, name: str) -> None:
    kept = tmp_path / "lxml/etree.cpython-311.so"
    for path in (kept, tmp_path / name):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    remove_unused(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]
