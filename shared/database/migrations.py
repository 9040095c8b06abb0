"""Migrations with Alembic for both services, with a short lock timeout and never two at once."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from shared.database.engine import create_engine
from shared.database.errors import sqlstate
from shared.database.readiness import newest_version, wait_for_server
from shared.database_url import read_database_url
from shared.settings import SettingsError

log = structlog.get_logger()

# A migration that waits for a lock blocks all later queries, so it gives up soon and begins again. It does so before
# PostgreSQL looks for a deadlock, after a second, and might end the transaction of a request.
LOCK_TIMEOUT: Final = "set lock_timeout = '400ms'"
PATIENCE: Final = 300.0  # seconds until a migration fails because its tables are in use
STAYED_IN_USE: Final = (
    f"a table was in use for {PATIENCE:.0f} s: end old transactions (pg_stat_activity shows them), then run "
    "chats migrate again, which goes on from here"
)
_PAUSE: Final = 1.0  # seconds between attempts
_IN_USE: Final = ("55P03", "40P01")  # a lock not available, a deadlock
_ONE_AT_A_TIME = "select pg_try_advisory_lock(hashtext('chats-migrations'))"


def migration_config(service: Path, url: str) -> Config:
    """Return Alembic's configuration for the service in this folder."""
    config = Config()
    config.set_main_option("script_location", str(service / "migrations"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes["url"] = url
    return config


def upgrade(service: Path, url: str, owner_url: str | None = None) -> None:
    """Migrate a service's database to the newest version, once its server answers.

    With `owner_url`, its role creates the tables, and the role of `url` can only read and write rows.
    """
    config = migration_config(service, owner_url or url)
    if owner_url is not None:
        config.attributes["granted_to"] = role = read_database_url(url).username
        if role is None:
            raise SettingsError(f"the URL of the {service.name} database must contain a user, to grant it access")
    command.upgrade(config, "head")


def run_environment(context: EnvironmentContext, config: Config, metadata: MetaData) -> None:
    """Run migrations, as Alembic's `env.py`, with the URL in the configuration."""
    newest = newest_version(Path(config.get_main_option("script_location") or "").parent)

    def migrate(connection: Connection) -> None:
        # Wait for another process without a transaction: building an index concurrently waits for all of them.
        while not connection.scalar(text(_ONE_AT_A_TIME)):
            connection.rollback()
            time.sleep(0.2)
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=metadata,
            transaction_per_migration=True,
            # Partitions are no tables of the models.
            include_name=lambda name, kind, _: kind != "table" or name not in connection.scalars(_PARTITIONS).all(),
        )
        # After a rollback, an older release works with the newer database, but cannot downgrade it.
        if (version := _version(connection)) > newest:
            log.warning("database is newer than this release, nothing to migrate", found=version, newest=newest)
        else:
            _when_unlocked(connection, context.run_migrations)
        append_only = [table.name for table in metadata.tables.values() if table.info.get("append_only")]
        _when_unlocked(connection, lambda: _grant(connection, config.attributes.get("granted_to"), append_only))
        _repair_indexes(connection)

    async def connect() -> None:
        url = config.attributes["url"]
        engine = create_engine(url, application="chats-migrate", pool_size=1, command_timeout=None, bounds={})
        try:
            await wait_for_server(engine)
            async with engine.connect() as connection:
                await connection.run_sync(migrate)
        finally:
            await engine.dispose()

    asyncio.run(connect())


def _when_unlocked(connection: Connection, work: Callable[[], None]) -> None:
    """Do some work and commit it. While its tables are in use, try again; what it has committed stays."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute(text(LOCK_TIMEOUT))
            connection.commit()
            work()
            connection.commit()
        except DBAPIError as error:
            connection.rollback()
            if sqlstate(error) not in _IN_USE:
                raise
            if time.monotonic() > end:
                raise SettingsError(STAYED_IN_USE) from None
        else:
            return
        log.info("tables are in use, trying again")
        time.sleep(_PAUSE)


def _version(connection: Connection) -> str:
    """Return a database's version, "" if it was never migrated."""
    if not connection.scalar(text("select to_regclass('alembic_version') is not null")):
        return ""
    return connection.scalar(text("select max(version_num) from alembic_version")) or ""


def _repair_indexes(connection: Connection) -> None:
    """Rebuild indexes whose build was interrupted, without blocking writes. May itself be interrupted."""
    connection.commit()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    connection.execute(text("set lock_timeout = 0"))  # a rebuild waits for older transactions, and blocks nobody
    quote = connection.dialect.identifier_preparer.quote
    for name, is_copy in connection.execute(_INVALID_INDEXES).all():
        log.warning("removing an unfinished copy of an index" if is_copy else "rebuilding an invalid index", index=name)
        action = "drop index" if is_copy else "reindex index"
        try:
            connection.execute(text(f"{action} concurrently {quote(name)}"))
        except IntegrityError:  # its text contains the rows' content
            log.warning("cannot rebuild a unique index: delete the duplicate rows or the index", index=name)


_PARTITIONS = text("select relname from pg_class where relispartition and relkind = 'r'")
# An interrupted rebuild leaves its unfinished copy, under a name that PostgreSQL made.
_INVALID_INDEXES = text(r"""
    select relname, relname ~ '_cc(new|old)\d*$' from pg_index join pg_class on pg_class.oid = indexrelid
    where not indisvalid and relnamespace = 'public'::regnamespace order by relname
""")


def _grant(connection: Connection, role: str | None, append_only: Sequence[str]) -> None:
    """Grant a role access to the rows of all current tables. It owns none, so it cannot drop or alter them.

    It can only read and add rows of those in `append_only`, and only through the table that has the partitions.
    """
    if role is None or role == connection.scalar(text("select current_user")):
        return
    name = connection.dialect.identifier_preparer.quote_identifier(role)
    connection.execute(text(f"grant usage on schema public to {name}"))
    connection.execute(text(f"grant select, insert, update, delete on all tables in schema public to {name}"))
    connection.execute(text(f"revoke insert, update, delete on alembic_version from {name}"))
    quote = connection.dialect.identifier_preparer.quote
    for table in append_only:
        connection.execute(text(f"revoke update, delete on {quote(table)} from {name}"))
    for partition in connection.scalars(_PARTITIONS).all():
        connection.execute(text(f"revoke all on {quote(partition)} from {name}"))
