"""Alembic for both services: one history each, run under a short lock time-out and never twice at once."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from sqlalchemy import Connection, MetaData, text

from shared.database import create_engine, wait_for_server

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


def upgrade(service: Path, url: str) -> None:
    """Bring a service's database to the newest version; wait for a server that is not there yet."""
    command.upgrade(migration_config(service, url), "head")


def run_environment(context: EnvironmentContext, config: Config, metadata: MetaData) -> None:
    """Do what Alembic's `env.py` does, with the URL that came with the configuration."""

    def migrate(connection: Connection) -> None:
        connection.execute(text(_ONE_AT_A_TIME))  # waits for another one to finish
        connection.execute(text(_LOCK_TIMEOUT))
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            context.run_migrations()

    async def connect() -> None:
        engine = create_engine(config.attributes["url"], application="chats-migrate", pool_size=1, command_timeout=None)
        await wait_for_server(engine)
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
        await engine.dispose()

    asyncio.run(connect())
