import asyncpg
import pytest

from deploy.doctor.databases import check
from deploy.local.postgres import Server

INVALID_INDEX = """
create index doubtful on messages (id);
update pg_index set indisvalid = false where indexrelid = 'doubtful'::regclass
"""
DEAD_ROWS = """
create table doubtful (number int) with (autovacuum_enabled = false);
insert into doubtful select generate_series(1, 100_001);
delete from doubtful;
select pg_stat_force_next_flush()
"""

Found = list[tuple[str, str]]


async def found(monkeypatch: pytest.MonkeyPatch, urls: dict[str, str]) -> Found:
    for name in ("conversations", "notifications"):
        monkeypatch.setenv(f"CHATS_{name.upper()}_DATABASE_URL", urls.get(name, ""))
    return [(finding.severity.name, finding.text) for finding in await check()]


def bad(findings: Found) -> Found:
    return [entry for entry in findings if entry[0] in {"WARNING", "FAULT"}]


@pytest.fixture
async def superuser(postgres: Server, databases: dict[str, str]) -> asyncpg.Connection:
    assert databases
    return await asyncpg.connect(postgres.url("conversations"))


async def test_all_is_well_but_the_durability_of_the_tests_own_server(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str]
) -> None:
    findings = await found(monkeypatch, databases)
    assert {text.partition(" is off")[0] for _, text in bad(findings)} == {
        f"{name}: {setting}" for name in databases for setting in ("fsync", "full_page_writes", "synchronous_commit")
    }
    assert [text.partition(":")[0] for severity, text in findings if severity == "OK"] == [
        name for name in databases for _ in range(2)
    ]


async def test_a_database_without_a_url_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = await found(monkeypatch, {})
    assert [severity for severity, _ in findings] == ["NOTE", "NOTE"]


async def test_a_server_that_does_not_answer_is_a_fault_and_the_other_one_is_checked(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str]
) -> None:
    urls = databases | {"conversations": "postgresql://conversations:hidden@127.0.0.1:1/conversations"}
    findings = await found(monkeypatch, urls)
    assert findings[0][0] == "FAULT"
    assert "does not answer" in findings[0][1]
    assert "hidden" not in findings[0][1]
    assert any(severity == "OK" and text.startswith("notifications") for severity, text in findings)


async def test_a_superuser_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, postgres: Server, databases: dict[str, str]
) -> None:
    findings = await found(monkeypatch, databases | {"conversations": postgres.url("conversations")})
    assert [text for severity, text in findings if severity == "WARNING"] == ["conversations: postgres is a superuser."]


@pytest.mark.parametrize(
    ("change", "undo", "severity", "part"),
    [
        (
            "revoke delete on messages from conversations",
            "grant delete on messages to conversations",
            "FAULT",
            "conversations may not read and write messages",
        ),
        (
            "update alembic_version set version_num = '0001'",
            "update alembic_version set version_num = (select max(version_num) from kept_version)",
            "FAULT",
            "The version is 0001, and ",
        ),
        (
            "update alembic_version set version_num = '9999'",
            "update alembic_version set version_num = (select max(version_num) from kept_version)",
            "NOTE",
            "of a newer release",
        ),
        (
            INVALID_INDEX,
            "drop index doubtful",
            "WARNING",
            "The index doubtful is invalid",
        ),
        (
            DEAD_ROWS,
            "drop table doubtful",
            "WARNING",
            "doubtful holds 100001 dead rows",
        ),
    ],
)
async def test_what_is_wrong_in_a_database_is_found(
    monkeypatch: pytest.MonkeyPatch,
    databases: dict[str, str],
    superuser: asyncpg.Connection,
    change: str,
    undo: str,
    severity: str,
    part: str,
) -> None:
    await superuser.execute("create temporary table kept_version as select * from alembic_version")
    await superuser.execute(change)
    try:
        findings = await found(monkeypatch, databases)
    finally:
        await superuser.execute(undo)
        await superuser.close()
    assert [level for level, text in findings if part in text] == [severity]
