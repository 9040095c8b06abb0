"""PostgreSQL's plans for the services' real statements: none scans or sorts a growing table."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from bench.growth_data import fill
from deploy.local.postgres import Server
from services.conversations.event_log import sequencer as conversations_log
from services.conversations.messaging.expiry import count_due, expire_closed
from services.conversations.messaging.quiet import resolve_quiet
from services.notifications import metrics, retention
from services.notifications.delivery.attempts import others_deliver, release_expired
from services.notifications.delivery.bounces import is_suspended
from services.notifications.delivery.claiming import claim_emails
from services.notifications.event_log import feed as notifications_log
from services.notifications.mail.attempts import Attempt, Phase
from services.notifications.rules import Outcome
from shared.database.transactions import SessionFactory, connection_provider
from tests.service.conftest import FEED_SECRET, As
from tests.service.helpers.attempt_factory import begin_data, has_due_email, record_attempt
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import email_settings, posted, receive
from tests.service.helpers.recorded_statements import Statement, statements, without_transactions

GROWING = {
    "users",
    "orders",
    "conversations",
    "conversation_entries",
    "messages",
    "events",
    "notifications",
    "emails",
    "email_messages",
    "email_tries",
}
SORTED_AT_MOST = 1000  # rows: the first ones of ten combinations of status and flag, or as many as are counted

INBOX = "/admin/conversations"
READS = {
    "customer": [
        "/conversations",
        "/conversations?status=CLOSED&unread=true",
        "/conversations/{}/messages",
        "/conversations/{}/messages?order=desc",
        "/orders",
        "/unread",
    ],
    "admin": [
        INBOX,
        f"{INBOX}?status=CLOSED",
        f"{INBOX}?unread=true",
        f"{INBOX}?unread=false",
        f"{INBOX}?status=OPEN&status=AWAITING_ADMIN&unread=true",
        f"{INBOX}?sort=waiting",
        f"{INBOX}?sort=waiting&status=CLOSED",
        f"{INBOX}?user_id=C-1",
        f"{INBOX}?user_id=C-1&status=CLOSED&unread=false",
        f"{INBOX}?user_id=C-1&status=OPEN",
        f"{INBOX}?user_id=C-1&unread=true",
        f"{INBOX}?user_id=C-1&sort=waiting",
        f"{INBOX}?order_id=O-2",
        f"{INBOX}?order_number=1002",
        f"{INBOX}?assigned=none",
        f"{INBOX}?assigned=me&status=OPEN",
        f"{INBOX}?assignee_id=A-1&unread=true",
        f"{INBOX}?label=late",
        f"{INBOX}?label=broken&assigned=none",
        f"{INBOX}?held=true",
        f"{INBOX}/{{}}/timeline",
        f"{INBOX}/{{}}/timeline?order=desc",
        "/admin/admins",
        "/admin/labels",
        "/admin/canned-replies",
        "/admin/users?q=zo%C3%AB%2042",
        f"{INBOX}/counts",
        f"{INBOX}/{{}}",
        f"{INBOX}/{{}}/messages",
        "/admin/users",
        "/unread",
    ],
}


@pytest.fixture
async def conversation(databases: dict[str, str], postgres: Server) -> AsyncIterator[str]:
    """A conversation of the customer C-1, in a large store's database."""
    assert "conversations" in databases  # the fixture migrates them
    superuser = await asyncpg.connect(postgres.url("conversations"))
    await superuser.execute("alter table users set (fillfactor = 10)")  # as many pages as more customers would fill
    await fill(postgres.url("conversations"), 60_000)
    yield str(await superuser.fetchval("select id from conversations where user_id = 'C-1' limit 1"))
    await superuser.execute("alter table users reset (fillfactor)")
    await superuser.execute("truncate users, events, labels cascade")  # deleting row by row takes long
    await superuser.close()


async def test_the_conversations_apis_statements_use_indexes(
    api: httpx2.AsyncClient, conversations_engine: AsyncEngine, conversation: str, acting_as: As
) -> None:
    people = {"customer": "C-1", "admin": "A-0"}
    callers = {role: Caller(api, "/api/v1", acting_as(sub, role)) for role, sub in people.items()}
    async with statements(conversations_engine) as recorded:
        for role, paths in READS.items():
            for path in paths:
                response = await callers[role].get(path.format(conversation))
                if isinstance(response, dict) and response.get("next_cursor"):
                    await callers[role].get(path.format(conversation), cursor=response["next_cursor"])
        await asyncio.gather(*(callers[role].get("/unread") for role in [*people] * 4))  # these share a statement
        async with AsyncSession(conversations_engine) as session:
            await resolve_quiet(session, 3650, size=100)
            await expire_closed(session, 3650, size=100)
            await count_due(session, 3650)
        feed = {"Authorization": f"Bearer {FEED_SECRET}"}
        assert (await api.get("/internal/events?after=10&min_age=2", headers=feed)).status_code == 200
    await _check(conversations_engine, recorded, kept=True)


async def test_the_notifications_services_statements_use_indexes(
    notifications: SessionFactory,
    notifications_engine: AsyncEngine,
    notifications_api: httpx2.AsyncClient,
    postgres: Server,
    acting_as: As,
) -> None:
    settings = email_settings("postgresql://unused")
    superuser = await asyncpg.connect(postgres.url("notifications"))
    await superuser.execute(_FILL)
    await superuser.close()
    await receive(notifications, settings, posted(uuid4(), 1))
    customer = Caller(notifications_api, "/api/v1", acting_as("C-1"))
    async with statements(notifications_engine) as recorded:
        await customer.get("/notifications")
        await customer.get("/notifications?unread=true")
        await customer.get("/notifications/unread")
        await Caller(notifications_api, "/api/v1", acting_as("A-0", "admin")).get("/notifications/emails?state=sent")
        async with notifications() as session:
            await has_due_email(session)
            [held] = await claim_emails(session, settings) or []
            assert await begin_data(session, held)
            await record_attempt(session, held, Attempt(Outcome.ACCEPTED, Phase.END_OF_DATA, 250, "taken"), settings)
            await release_expired(session, settings)
            await is_suspended(session)
            await session.execute(metrics._ATTEMPTS)  # noqa: SLF001 - the counts beside it read up to 10,000 emails
            for purge in (retention.purge_inbox, retention.purge_attempts, retention.purge_bounces):
                await purge(session, settings, size=100)
            await session.rollback()
        async with connection_provider(notifications_engine)() as connection:
            await others_deliver(connection, None)
    assert len(recorded) > 5
    await _check(notifications_engine, recorded, kept=False)


@pytest.mark.parametrize("name", ["conversations", "notifications"])
async def test_numbering_a_batch_costs_the_same_however_many_events_wait(
    databases: dict[str, str], postgres: Server, name: str
) -> None:
    assert name in databases  # the fixture migrates them
    superuser = await asyncpg.connect(postgres.url(name))
    await superuser.execute("alter table events set (autovacuum_enabled = false)")
    try:
        append = f"{_APPEND[name]} from generate_series(1, 500)"
        await superuser.execute(append)
        await superuser.execute("update events set position = seq")
        await superuser.execute("analyze events")
        await superuser.execute(append)  # PostgreSQL goes on expecting that none waits
        await superuser.execute("set plan_cache_mode = force_generic_plan")
        await superuser.execute(f"prepare numbering as {_NUMBERING[name]}")
        [plan] = json.loads(await superuser.fetchval("explain (analyze, format json) execute numbering (1000, 50)"))
    finally:
        await superuser.execute("truncate events; alter table events reset (autovacuum_enabled)")
        await superuser.execute("update feed set head = 0")
        await superuser.close()
    nodes = list(_nodes(plan["Plan"]))
    rows = [(node["Actual Rows"] + node.get("Rows Removed by Join Filter", 0)) * node["Actual Loops"] for node in nodes]
    assert max(rows) == 50


async def _check(engine: AsyncEngine, recorded: list[Statement], *, kept: bool) -> None:
    """Check the plans for these values, and with `kept` also the generic plans."""
    async with connection_provider(engine)() as connection:
        await connection.execute("set plan_cache_mode = force_generic_plan")
        for statement in {statement.query: statement for statement in without_transactions(recorded)}.values():
            await connection.execute(f"prepare asked as {statement.query}")
            nulls = f"({', '.join(['null'] * len(statement.values))})" if statement.values else ""
            for explained in [statement.alone, f"execute asked {nulls}"][: 1 + kept]:
                [plan] = await connection.fetchval(f"explain (format json) {explained}")
                faults = [fault for node in _nodes(plan["Plan"]) if (fault := _fault(node))]
                assert not faults, (faults, explained)
            await connection.execute("deallocate asked")


def _fault(node: dict[str, Any]) -> str | None:
    kind = node["Node Type"]
    if kind == "Seq Scan" and node["Relation Name"] in GROWING:
        return f"reads through {node['Relation Name']}"
    if "Sort" in kind and (rows := max(below["Plan Rows"] for below in node["Plans"])) > SORTED_AT_MOST:
        return f"sorts {rows} rows"
    if kind == "BitmapAnd":
        return "reads entries of the whole store to find one customer's"
    found_by, filtered = node.get("Index Cond", "") + node.get("Recheck Cond", ""), node.get("Filter", "")
    if (
        "user_id" in found_by
        and "is_read_by_user" not in found_by
        and re.search(r"\bstatus|is_read_by_admin", filtered)
    ):
        return "reads a customer's rows to drop most of them"
    if "uuidv7(" in node.get("Filter", ""):  # volatile: called for each row, so no index can be used
        return f"makes an id for each row of {node['Relation Name']}"
    return None


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


_NUMBERING = {
    "conversations": conversations_log._NUMBER,  # noqa: SLF001 - the statement itself, to ask for its plan
    "notifications": notifications_log._NUMBER,  # noqa: SLF001 - the same
}
_APPEND = {
    "conversations": "insert into events (type) select 'settings.changed'",
    "notifications": "insert into events (subject_id, type) select gen_random_uuid(), 'email.updated'",
}
_FILL = """
insert into notifications (user_id, conversation_id, message_id, number, subject, sender_id, preview, read_at)
select 'C-' || n % 2000, gen_random_uuid(), gen_random_uuid(), 1, 'Where is it?', 'A-0', 'Here',
    case when n % 5 > 0 then now() end
from generate_series(1, 20000) as n;
insert into emails (audience, recipient_id, conversation_id, state, due_at, next_attempt_at, lease_until, finished_at)
select 'customer', 'C-' || n % 2000, gen_random_uuid(),
    case when n % 10 = 0 then 'scheduled' when n % 1000 = 1 then 'sending' else 'sent' end, now(),
    now() + interval '1 second' * (n - 30), now() + interval '1 minute',
    case when n % 10 > 0 and n % 1000 <> 1 then now() end
from generate_series(1, 20000) as n;
insert into email_tries (id, email_id, outcome, phase, reply, process)
select uuidv7(interval '1 minute' * -n), gen_random_uuid(), 'accepted', 'end-of-data', 'taken', 'worker'
from generate_series(1, 20000) as n;
insert into email_messages (message_id, email_id, number, sender_id, body, created_at)
select gen_random_uuid(), id, 1, 'A-0', 'Here it is.', now() from emails;
analyze
"""
