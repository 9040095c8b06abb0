"""One world for all tests of this folder. None of them changes it: nothing else here may use the databases."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.service.access.world import World, built
from tests.service.conftest import empty_conversations, empty_notifications


@pytest.fixture(scope="package")
async def world(
    databases: dict[str, str], conversations_engine: AsyncEngine, notifications_engine: AsyncEngine
) -> AsyncIterator[World]:
    """People and their things, and both services."""
    engines = {"conversations": conversations_engine, "notifications": notifications_engine}
    try:
        async with built(databases, engines) as made:
            yield made
    finally:
        await empty_conversations(conversations_engine)
        await empty_notifications(notifications_engine)
