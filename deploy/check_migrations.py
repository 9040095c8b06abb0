"""Check on a temporary PostgreSQL that the migrations create exactly the tables that the models describe."""

import asyncio
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.util import CommandError

from deploy.cli import SERVICES
from deploy.local.postgres import throwaway_postgres
from shared.database.migrations import migration_config


async def check_migrations() -> None:
    """Upgrade, compare and downgrade each service's database. Raise Alembic's `CommandError` for a difference."""
    with tempfile.TemporaryDirectory() as directory:
        async with throwaway_postgres(Path(directory) / "postgres") as server:
            await asyncio.to_thread(_check, server.url())


def _check(url: str) -> None:
    for service in sorted(path.parent for path in SERVICES.glob("*/migrations")):
        config = migration_config(service, url)
        command.upgrade(config, "head")
        command.check(config)
        command.downgrade(config, "base")


if __name__ == "__main__":
    try:
        asyncio.run(check_migrations())
    except CommandError as error:
        sys.exit(str(error))
