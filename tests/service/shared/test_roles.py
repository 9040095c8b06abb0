"""A service's database role may only work with the rows of its own database, and has no access to the other."""

import asyncio

import asyncpg
import pytest

from deploy.cli import SERVICES
from deploy.local.postgres import OWNER, Server, create_databases
from shared.database.migrations import upgrade
from shared.settings import SettingsError
from tests.service.conftest import DATABASES

TABLE = {"conversations": "messages", "notifications": "emails"}


@pytest.mark.parametrize("service", DATABASES)
@pytest.mark.parametrize(
    "statement",
    [
        "drop table {table} cascade",
        "alter table {table} add column more text",
        "alter table {table} disable trigger all",
        "truncate {table} cascade",
        "create table more ()",
        "create temporary table more ()",
        "create schema more",
        "create index on {table} (id)",
        "create function more() returns int language sql as 'select 1'",
        "update alembic_version set version_num = '0000'",
        "copy {table} to program 'true'",
        "select pg_read_file('/etc/hostname')",
        "set role {service}_owner",
        "drop database {service}",
        "create role more",
    ],
)
async def test_a_service_cannot_change_anything_but_rows(
    databases: dict[str, str], service: str, statement: str
) -> None:
    connection = await asyncpg.connect(databases[service])
    refused = (asyncpg.InsufficientPrivilegeError, asyncpg.DependentObjectsStillExistError)
    with pytest.raises(refused):
        await connection.execute(statement.format(table=TABLE[service], service=service))
    await connection.close()


@pytest.mark.parametrize("service", DATABASES)
async def test_a_service_can_work_with_the_rows_of_all_its_tables(databases: dict[str, str], service: str) -> None:
    connection = await asyncpg.connect(databases[service])
    tables = await connection.fetch(
        "select relname, relispartition from pg_class"
        " where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
    )
    limited = {"alembic_version": {"select"}, "audit_entries": {"select", "insert"}}
    for table, is_partition in tables:
        for privilege in (everything := ("select", "insert", "update", "delete")):
            expected = not is_partition and privilege in limited.get(table, everything)
            query = "select has_table_privilege($1, $2)"
            assert await connection.fetchval(query, table, privilege) == expected, (table, privilege)
    assert len(tables) > 8
    await connection.close()


async def test_the_database_of_the_other_service_is_not_accessible(postgres: Server, databases: dict[str, str]) -> None:
    for service in databases:
        for role in (service, f"{service}{OWNER}"):
            for other in {*DATABASES, "postgres", "template1"} - {service}:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await asyncpg.connect(postgres.url(other, role, "test"))


async def test_a_database_with_a_single_role_is_transferred_to_an_owner_with_all_its_objects(postgres: Server) -> None:
    service, url, owner = (
        SERVICES / "notifications",
        postgres.url("old", "old", "a"),
        postgres.url("old", "old_owner", "b"),
    )
    await create_databases(postgres, {"old": "a"})
    await asyncio.to_thread(upgrade, service, url)
    connection = await asyncpg.connect(url)
    await connection.execute("insert into people (id, version) values ('anna', 1)")

    for _ in range(2):  # this happens at every start
        await create_databases(postgres, {"old": "a", "old_owner": "b"})
        await asyncio.to_thread(upgrade, service, url, owner)
    assert await connection.fetchval("select id from people") == "anna"
    await connection.execute("update people set version = 2")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("drop table people")
    await connection.close()


async def test_a_table_of_a_later_migration_is_accessible_to_the_service(postgres: Server) -> None:
    service, url, owner = (
        SERVICES / "conversations",
        postgres.url("new", "new", "a"),
        postgres.url("new", "new_owner", "b"),
    )
    await create_databases(postgres, {"new": "a", "new_owner": "b"})
    await asyncio.to_thread(upgrade, service, url, owner)
    connection = await asyncpg.connect(owner)
    await connection.execute("create table later ()")
    await connection.close()
    await asyncio.to_thread(upgrade, service, url, owner)
    connection = await asyncpg.connect(url)
    assert await connection.fetch("select from later") == []
    await connection.close()


def test_an_owner_url_without_a_service_user_is_rejected() -> None:
    with pytest.raises(SettingsError, match="must contain a user"):
        upgrade(SERVICES / "conversations", "postgresql://127.0.0.1/x", "postgresql://owner@127.0.0.1/x")
