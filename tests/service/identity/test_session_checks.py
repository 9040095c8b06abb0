"""Posts by browsers check their sessions in batches, and mark them as used."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import select, text, update

from services.conversations.identity import sessions
from services.conversations.identity.access import SessionChecks
from services.conversations.models import BrowserSession
from services.conversations.rules import Side
from shared.auth.principal import Principal
from shared.auth.tokens import VerifiedTokens
from shared.database.transactions import SessionFactory, connection_provider, transaction
from shared.problems import Unauthenticated
from shared.settings import Role
from tests.service.helpers.callers import Caller
from tests.service.helpers.recorded_statements import statements

AN_HOUR_AGO = datetime.now(UTC) - timedelta(hours=1)


async def _begin(conversations: SessionFactory, count: int) -> list[Principal]:
    """Begin sessions of `anna` that were last used an hour ago."""
    async with transaction(conversations) as session:
        begun = [await sessions.begin(session, "anna", Side.CUSTOMER) for _ in range(count)]
        await session.execute(update(BrowserSession).values(last_seen_at=AN_HOUR_AGO))
    return [Principal("anna", Role.CUSTOMER, session_id=browser_session.id) for browser_session in begun]


async def _used(conversations: SessionFactory) -> int:
    async with conversations() as session:
        seen = await session.scalars(select(BrowserSession.last_seen_at))
        return sum(moment > AN_HOUR_AGO for moment in seen)


async def test_concurrent_checks_share_statements_but_not_their_results(
    anna: Caller, conversations: SessionFactory
) -> None:
    await anna.open()
    ended, *live = await _begin(conversations, 10)
    assert ended.session_id is not None
    async with transaction(conversations) as session:
        await sessions.end(session, ended.session_id)
    strangers = [
        Principal("anna", Role.CUSTOMER, session_id=uuid4()),
        Principal("ben", Role.CUSTOMER, session_id=live[0].session_id),
        Principal("anna", Role.ADMIN, session_id=live[0].session_id),
    ]
    checks = SessionChecks(connection_provider(conversations.kw["bind"]))
    callers = [ended, *live, *strangers, live[0]]
    async with statements(conversations.kw["bind"]) as recorded:
        results = await asyncio.gather(*(checks.require(caller) for caller in callers), return_exceptions=True)
    refused = {caller for caller, result in zip(callers, results, strict=True) if isinstance(result, Unauthenticated)}
    assert refused == {ended, *strangers}
    assert len(recorded) < len(callers) / 2
    assert await _used(conversations) == len(live)


async def test_a_locked_session_delays_no_check(anna: Caller, conversations: SessionFactory) -> None:
    await anna.open()
    first, second = await _begin(conversations, 2)
    checks = SessionChecks(connection_provider(conversations.kw["bind"]))
    async with transaction(conversations) as other:
        await other.execute(text("select from sessions where id = :id for update"), {"id": first.session_id})
        await asyncio.gather(checks.require(first), checks.require(second))
    assert await _used(conversations) == 1


@pytest.mark.parametrize("seconds", [-1, 100])
def test_a_verified_token_is_forgotten_when_it_expires(seconds: int) -> None:
    verified = VerifiedTokens[str]()
    verified.add("token", "content", datetime.now(UTC) + timedelta(seconds=seconds))
    assert verified.find("token") == ("content" if seconds > 0 else None)
    assert verified.find("other") is None
