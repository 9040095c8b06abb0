"""Alembic for both services: one history each, run under a short lock time-out and never twice at once."""

import asyncio
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from sqlalchemy import Connection, MetaData, text

from shared.database import create_engine
from shared.database_url import read_database_url
from shared.readiness import newest_version, wait_for_server
from shared.settings import SettingsError

log = structlog.get_logger()

# A migration that waits for a lock holds up everybody behind it: better it fails, and is run again.
_LOCK_TIMEOUT = "set lock_timeout = '5s'"
_ONE_AT_A_TIME = "select pg_advisory_lock(hashtext('chats-migrations'))"


def migration_config(service: Path, url: str) -> Config:
    """Make Alembic's configuration for the service in this folder."""
    config = Config()
    config.set_main_option("script_location", str(service / "migrations"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes["url"] = url
    return config


def upgrade(service: Path, url: str, owner_url: str | None = None) -> None:
    """Bring a service's database to the newest version; wait for a server that is not there yet.

    The role of `owner_url` makes the tables then, and that of `url` may work with what they hold, and no more.
    """
    config = migration_config(service, owner_url or url)
    if owner_url is not None:
        config.attributes["granted_to"] = role = read_database_url(url).username
        if role is None:
            raise SettingsError(f"the URL of the {service.name} database names no user, whom the owner could let in")
    command.upgrade(config, "head")


def run_environment(context: EnvironmentContext, config: Config, metadata: MetaData) -> None:
    """Do what Alembic's `env.py` does, with the URL that came with the configuration."""
    newest = newest_version(Path(config.get_main_option("script_location") or "").parent)

    def migrate(connection: Connection) -> None:
        connection.execute(text(_ONE_AT_A_TIME))  # waits for another one to finish
        connection.execute(text(_LOCK_TIMEOUT))
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            # An older release that is put back meets a newer database, which it can work with, and cannot take back.
            if (found := _version(connection)) > newest:
                log.warning("the database is newer than this version, nothing to migrate", found=found, newest=newest)
            else:
                context.run_migrations()
            _grant(connection, config.attributes.get("granted_to"))

    async def connect() -> None:
        url = config.attributes["url"]
        engine = create_engine(url, application="chats-migrate", pool_size=1, command_timeout=None, bounds={})
        await wait_for_server(engine)
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
        await engine.dispose()

    asyncio.run(connect())


def _version(connection: Connection) -> str:
    """Return the version that a database is at, "" when it was never migrated."""
    if not connection.scalar(text("select to_regclass('alembic_version') is not null")):
        return ""
    return connection.scalar(text("select max(version_num) from alembic_version")) or ""


def _grant(connection: Connection, role: str | None) -> None:
    """Let a role work with the rows of all tables there are now. It owns nothing: it can drop and alter nothing."""
    if role is None or role == connection.scalar(text("select current_user")):
        return
    name = connection.dialect.identifier_preparer.quote_identifier(role)
    connection.execute(text(f"grant usage on schema public to {name}"))
    connection.execute(text(f"grant select, insert, update, delete on all tables in schema public to {name}"))
    connection.execute(text(f"revoke insert, update, delete on alembic_version from {name}"))
