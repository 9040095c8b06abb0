from pathlib import Path

import pytest

from deploy.doctor.file_store import check
from tests.helpers.clamd_peer import running_clamd


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHATS_CONVERSATIONS_DATABASE_URL", "postgresql://chats@127.0.0.1/unused")
    monkeypatch.setenv("CHATS_FILES_URL", (tmp_path / "files").as_uri())


async def test_an_invalid_setting_is_a_fault_of_each_area_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATS_FILES_URL", "ftp://files.example")
    [(severity, text)] = await found()
    assert (severity, text.partition(": the")[0]) == ("FAULT", "Not checked: CHATS_FILES_URL")
    monkeypatch.delenv("CHATS_FILES_URL")
    monkeypatch.delenv("CHATS_CONVERSATIONS_DATABASE_URL")
    assert await found() == [("NOTE", "Not checked: CHATS_CONVERSATIONS_DATABASE_URL must be set.")]


async def found() -> list[tuple[str, str]]:
    return [(finding.severity.name, finding.text) for finding in await check()]


async def test_a_store_and_a_scanner_that_work_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_clamd() as clamd:
        monkeypatch.setenv("CHATS_SCAN_URL", clamd.url)
        assert [severity for severity, _ in await found()] == ["OK", "OK"]


async def test_a_store_that_cannot_be_written_and_a_silent_scanner_are_faults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "files").write_bytes(b"")
    monkeypatch.setenv("CHATS_SCAN_URL", "tcp://127.0.0.1:1")
    findings = await found()
    assert [severity for severity, _ in findings] == ["FAULT", "FAULT"]
    assert "cannot be used" in findings[0][1]
    assert "does not answer" in findings[1][1]


async def test_without_settings_there_is_nothing_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHATS_CONVERSATIONS_DATABASE_URL")
    assert [severity for severity, _ in await found()] == ["NOTE"]
