"""Posts with tokens look their callers up in batches; only new and changed ones cost a transaction."""

import asyncio
from datetime import UTC, datetime

from sqlalchemy import select, text

from services.conversations.identity.access import KnownUserCache
from services.conversations.models import User
from shared.auth.principal import Principal
from shared.database.transactions import SessionFactory, connection_provider, transaction
from shared.problems import Unauthenticated
from shared.settings import Role
from tests.service.helpers.recorded_statements import statements


async def test_concurrent_first_posts_share_statements_but_not_their_results(conversations: SessionFactory) -> None:
    known = [f"C-{number}" for number in range(12)]
    async with transaction(conversations) as session:
        session.add_all(User(id=user_id, role=Role.CUSTOMER, name="Stored") for user_id in [*known, "deleted"])
        await session.flush()
        await session.execute(text("update users set deleted_at = now() where id = 'deleted'"))
    unchanged = [Principal(user_id, Role.CUSTOMER, name="Stored", issued_at=1) for user_id in known]
    cache = KnownUserCache(connection_provider(conversations.kw["bind"]))
    async with statements(conversations.kw["bind"]) as recorded:
        await asyncio.gather(*(cache.ensure(caller, conversations) for caller in unchanged))
        assert len(recorded) < len(unchanged) / 2
        recorded.clear()
        await asyncio.gather(*(cache.ensure(caller, conversations) for caller in unchanged))
        assert not recorded

    now = int(datetime.now(UTC).timestamp())
    others = [
        Principal("C-0", Role.CUSTOMER, name="Changed", issued_at=now),
        Principal("new", Role.CUSTOMER, name="New", issued_at=now),
        Principal("deleted", Role.CUSTOMER, name="Stored", issued_at=now),
    ]
    results = await asyncio.gather(*(cache.ensure(caller, conversations) for caller in others), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), type(None), Unauthenticated]
    async with conversations() as session:
        names = {user.id: user.name for user in await session.scalars(select(User))}
    assert (names["C-0"], names["new"]) == ("Changed", "New")
