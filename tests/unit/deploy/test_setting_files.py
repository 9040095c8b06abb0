"""Settings from files."""

from pathlib import Path

import pytest

from deploy.setting_files import read_setting_files
from shared.settings import SettingsError


@pytest.mark.parametrize("text", ["a secret", "a secret\n", "a secret\r\n"])
def test_a_file_holds_a_setting_with_or_without_a_line_break(tmp_path: Path, text: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(text.encode())
    environment = {"CHATS_AUTH_SECRET_FILE": str(file), "CHATS_LOG_LEVEL": "info", "OTHER_FILE": "/nowhere"}
    read_setting_files(environment)
    assert environment == {"CHATS_AUTH_SECRET": "a secret", "CHATS_LOG_LEVEL": "info", "OTHER_FILE": "/nowhere"}


def test_an_empty_variable_names_no_file() -> None:
    environment = {"CHATS_AUTH_SECRET_FILE": "", "CHATS_AUTH_SECRET": "a secret"}
    read_setting_files(environment)
    assert environment["CHATS_AUTH_SECRET"] == "a secret"


def test_a_file_wins_over_an_empty_setting(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret")
    environment = {"CHATS_AUTH_SECRET": "", "CHATS_AUTH_SECRET_FILE": str(tmp_path / "secret")}
    read_setting_files(environment)
    assert environment["CHATS_AUTH_SECRET"] == "a secret"


def test_a_setting_and_its_file_are_an_error(tmp_path: Path) -> None:
    environment = {"CHATS_AUTH_SECRET": "a secret", "CHATS_AUTH_SECRET_FILE": str(tmp_path / "secret")}
    with pytest.raises(SettingsError, match="CHATS_AUTH_SECRET and CHATS_AUTH_SECRET_FILE are both set"):
        read_setting_files(environment)


def test_an_unreadable_file_is_reported_without_its_content(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff hidden")
    for path, reason in ((tmp_path, "directory"), (tmp_path / "none", "No such file"), (binary, "no text in UTF-8")):
        with pytest.raises(SettingsError, match=reason) as caught:
            read_setting_files({"CHATS_FEED_SECRET_FILE": str(path)})
        assert str(caught.value).startswith("CHATS_FEED_SECRET_FILE: ")
        assert "hidden" not in str(caught.value)
