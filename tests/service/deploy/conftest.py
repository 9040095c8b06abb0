import asyncio
from collections.abc import Callable, Coroutine

import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app

Chats = Callable[..., Coroutine[None, None, Result]]


@pytest.fixture
def chats(databases: dict[str, str]) -> Chats:
    """Run a command as an operator does."""

    async def run(*words: str, **settings: str) -> Result:
        environment = {f"CHATS_{name.upper()}_DATABASE_URL": url for name, url in databases.items()} | settings
        return await asyncio.to_thread(CliRunner().invoke, app, list(words), env=environment)

    return run
