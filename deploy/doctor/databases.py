"""Check both databases: reachable, durable, migrated, with the rights that the processes need."""

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import services
from deploy.doctor.findings import Finding, Severity, fault, note, ok, warning
from services.conversations.settings import StoreSettings as ConversationsSettings
from services.notifications.settings import StoreSettings as NotificationsSettings
from shared.database.clock_skew import MAX_SKEW, read_skew
from shared.database.engine import create_engine
from shared.database.errors import DATABASE_ERRORS, describe
from shared.database.readiness import database_fault, newest_version
from shared.database.transactions import create_sessions, transaction
from shared.settings import read_settings

MIN_VERSION: Final = 180_000  # PostgreSQL 18
CROWDED: Final = 0.8  # of the server's connections
MANY_DEAD: Final = 100_000  # rows of a table: with twice as many, a badge took 60 times as long (`bench.wear`, HOLD=1)
_SERVICES: Final = Path(services.__path__[0])

_FACTS = text("""
select current_setting('server_version_num')::int as version_number,
       current_setting('server_version') as version,
       current_user as role,
       current_setting('is_superuser')::boolean as is_superuser,
       current_setting('fsync')::boolean as fsync,
       current_setting('full_page_writes')::boolean as full_page_writes,
       current_setting('synchronous_commit') as synchronous_commit,
       current_setting('max_connections')::int as max_connections,
       (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections,
       coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as tls,
       host(inet_server_addr()) as address,
       to_regclass('alembic_version') is not null as has_version
""")
_VERSION = text("select max(version_num) from alembic_version")
_FORBIDDEN = text("""
select relname from pg_class
where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
    and relname <> 'alembic_version' and not (
        has_table_privilege(oid, 'select') and has_table_privilege(oid, 'insert')
        and (relname = 'audit_entries' or has_table_privilege(oid, 'update') and has_table_privilege(oid, 'delete'))
    )
order by relname
""")
_MAY_DROP_AUDIT = text("""
select exists (
    select from pg_class where relname = 'audit_entries' and relnamespace = 'public'::regnamespace
        and pg_has_role(relowner, 'usage')
)
""")
_INVALID_INDEXES = text("""
select relname from pg_index join pg_class on pg_class.oid = indexrelid
where not indisvalid and relnamespace = 'public'::regnamespace order by relname
""")
_DEAD_ROWS = text("""
select relname, n_dead_tup from pg_stat_user_tables
where schemaname = 'public' and n_dead_tup > :many and n_dead_tup > n_live_tup order by n_dead_tup desc
""")


async def check() -> Sequence[Finding]:
    """Check the databases whose URLs are set."""
    findings: list[Finding] = []
    for name in ("conversations", "notifications"):
        variable = f"CHATS_{name.upper()}_DATABASE_URL"
        if not os.environ.get(variable):
            findings.append(note(f"{name}: not checked, because {variable} is not set here."))
            continue
        url = (
            read_settings(ConversationsSettings).conversations_database_url
            if name == "conversations"
            else read_settings(NotificationsSettings).notifications_database_url
        )
        async with _engine(url) as engine:
            findings += await _check(name, engine)
    return findings


@asynccontextmanager
async def _engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(url, application="chats-doctor", pool_size=1)
    try:
        yield engine
    finally:
        await engine.dispose()


async def _check(name: str, engine: AsyncEngine) -> list[Finding]:
    if reason := await database_fault(engine, None):
        advice = f"Check CHATS_{name.upper()}_DATABASE_URL, the server and its log."
        return [fault(f"{name}: {reason}.", advice)]
    try:
        async with transaction(create_sessions(engine)) as session:
            facts = SimpleNamespace(**(await session.execute(_FACTS)).one()._mapping)  # noqa: SLF001 - SQLAlchemy's name
            facts.skew = await read_skew(session)
            facts.invalid_indexes = list(await session.scalars(_INVALID_INDEXES))
            facts.dead_rows = (await session.execute(_DEAD_ROWS, {"many": MANY_DEAD})).all()
            facts.forbidden = list(await session.scalars(_FORBIDDEN))
            facts.may_drop_audit = await session.scalar(_MAY_DROP_AUDIT)
            facts.migrated_to = await session.scalar(_VERSION) if facts.has_version else None
    except DATABASE_ERRORS as error:
        return [fault(f"{name}: {describe(error)}.", "See the server's log.")]
    findings = [*_of_server(facts), *_of_durability(facts), *_of_schema(_SERVICES / name, facts), *_of_dead_rows(facts)]
    return [finding._replace(text=f"{name}: {finding.text}") for finding in findings]


def _of_server(facts: Any) -> Iterator[Finding]:
    server = f"PostgreSQL {facts.version}, as the role {facts.role}"
    if facts.version_number < MIN_VERSION:
        yield fault(f"{server}.", f"Upgrade the server to PostgreSQL {MIN_VERSION // 10_000} or newer.")
    else:
        yield ok(f"{server}, {facts.connections} of {facts.max_connections} connections in use.")
    if facts.connections > CROWDED * facts.max_connections:
        yield warning(
            f"{facts.connections} of {facts.max_connections} connections are in use.",
            "Raise max_connections, or use PgBouncer (docs/scaling.md).",
        )
    if facts.is_superuser:
        advice = "Use a role for each service that can only read and write its own database."
        yield warning(f"{facts.role} is a superuser.", advice)
    # Without an address it is a Unix socket.
    if not facts.tls and facts.address is not None and not ip_address(facts.address).is_loopback:
        severity = Severity.NOTE if ip_address(facts.address).is_private else Severity.WARNING
        advice = "Add ?sslmode=verify-full to the URL, unless the network between them is encrypted."
        yield Finding(severity, f"The connection to {facts.address} is not encrypted.", advice)
    if abs(facts.skew) > MAX_SKEW:
        ahead = f"{abs(facts.skew):.0f} s {'behind' if facts.skew > 0 else 'ahead of'} this machine's"
        yield fault(f"The server's clock is {ahead}.", "Synchronize both clocks by NTP.")


def _of_durability(facts: Any) -> Iterator[Finding]:
    """Yield what could lose an acknowledged message when the server or its machine crashes."""
    for name, value in (("fsync", facts.fsync), ("full_page_writes", facts.full_page_writes)):
        if not value:
            yield fault(f"{name} is off: a crash of the machine destroys data.", f"Set {name} = on.")
    if facts.synchronous_commit == "off":
        yield fault(
            "synchronous_commit is off: a crash of the server loses acknowledged messages.",
            "Set synchronous_commit = on, also for the role and the database.",
        )


def _of_schema(service: Path, facts: Any) -> Iterator[Finding]:
    newest, found = newest_version(service), facts.migrated_to or "none"
    if found == "none" or found < newest:
        yield fault(f"The version is {found}, and {newest} is required.", "Run `chats migrate`.")
    elif found > newest:
        yield note(f"The version is {found}, of a newer release; this one works with it.")
    else:
        yield ok(f"The version is {found}, the newest.")
    if facts.forbidden:
        yield fault(
            f"{facts.role} may not read and write {', '.join(facts.forbidden)}.",
            "Run `chats migrate` with the owner's URL: it grants the rights.",
        )
    if facts.may_drop_audit:
        yield note(
            f"{facts.role} owns the tables, so it can drop the audit.",
            "Let another role own them: CHATS_CONVERSATIONS_OWNER_URL.",
        )
    for name in facts.invalid_indexes:
        yield warning(
            f"The index {name} is invalid, so it slows writes and serves no reads.",
            "Run `chats migrate`: it rebuilds the index without blocking writes.",
        )


def _of_dead_rows(facts: Any) -> Iterator[Finding]:
    """Yield the tables that hold more dead rows than live ones, through which badges and queues read."""
    for table, dead in facts.dead_rows:
        yield warning(
            f"{table} holds {dead} dead rows, more than live ones, which slow reads.",
            "End the transaction that keeps them from vacuum, if one is open for long (docs/operations.md).",
        )
