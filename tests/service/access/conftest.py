"""One world for all tests of this folder. No test changes it, and nothing else here uses the databases."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.service.access.world import World, built
from tests.service.conftest import empty_conversations, empty_notifications


@pytest.fixture(scope="package")
async def world(
    databases: dict[str, str],
    conversations_engine: AsyncEngine,
    notifications_engine: AsyncEngine,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[World]:
    """Users with data, and both services."""
    engines = {"conversations": conversations_engine, "notifications": notifications_engine}
    try:
        async with built(databases, engines, tmp_path_factory.mktemp("files").as_uri()) as world:
            yield world
    finally:
        await empty_conversations(conversations_engine)
        await empty_notifications(notifications_engine)
