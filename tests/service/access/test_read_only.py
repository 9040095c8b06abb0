"""With a read-only database every route that writes responds 503 with Retry-After, and all others work."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import event

from services.conversations.app import create_app as create_conversations_app
from services.conversations.settings import ApiSettings as ConversationsSettings
from services.notifications.app import create_app as create_notifications_app
from services.notifications.settings import ApiSettings as NotificationsSettings
from tests.service.access.table import CALLERS, ROWS, Row
from tests.service.access.world import World
from tests.service.conftest import FEED_SECRET, SECRET

# Without redirects and public resources, which need no database.
PLAYED = [row for row in ROWS if not row.is_public and row.path != "/api/v1/stream"]


@pytest.fixture(scope="module")
async def frozen(world: World, databases: dict[str, str]) -> AsyncIterator[World]:
    """The same world, with connections that become read-only after the login."""
    conversations = ConversationsSettings(
        conversations_database_url=databases["conversations"],
        auth_secret=[SECRET],
        feed_secret=SecretStr(FEED_SECRET),
        redis_url=None,
        files_url=world.apps["conversations"].state.settings.files_url,
    )
    notifications = NotificationsSettings(
        notifications_database_url=databases["notifications"],
        auth_secret=[SECRET],
        feed_secret=SecretStr(FEED_SECRET),
    )
    apps = {
        "conversations": create_conversations_app(conversations),
        "notifications": create_notifications_app(notifications),
    }
    engines = [app.state.sessions.kw["bind"] for app in apps.values()]
    for engine in engines:
        event.listen(engine.sync_engine, "connect", _make_read_only)
    yield replace(world, apps=apps)
    for engine in engines:
        await engine.dispose()


def _make_read_only(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("set default_transaction_read_only = on")
    cursor.close()
    connection.commit()


@pytest.mark.parametrize("row", PLAYED, ids=str)
async def test_a_route_that_writes_is_temporarily_unavailable(frozen: World, row: Row) -> None:
    for caller in (caller for caller in CALLERS if row.statuses[caller] < 400):
        for credential in frozen.wallet.of(caller, row):
            answer = await frozen.play(row, credential)
            context = (caller, credential.name, answer.status, answer.text)
            if answer.status == 503:
                assert int(answer.header("retry-after") or 0) > 0, context
            else:
                assert row.is_safe, context
                assert answer.status == row.statuses[caller], context
