"""The test of the test: builds that break the guarantee on purpose, which the chaos run has to catch.

As a program it starts a process of such a build: `python -m bench.chaos.broken cursor-by-id api --port 8001`.
"""

import asyncio
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bench.chaos.faults import Fault, World
from bench.chaos.ours import our_system
from bench.chaos.run import Plan, run
from deploy.local.processes import Spawn, spawn
from tests.helpers.smtp_server import DROP
from tests.system.helpers.product import PROCESSES

COMMITS_COME_LATE = """
    create function dawdle() returns trigger language plpgsql as
        $$ begin if random() < 0.4 then perform pg_sleep(1); end if; return null; end $$;
    create constraint trigger dawdles after insert on events
        deferrable initially deferred for each row execute function dawdle();
"""
INBOX_FORGETS = """
    create function forget() returns trigger language plpgsql as
        $$ begin delete from inbox where event_id = new.event_id; return null; end $$;
    create constraint trigger forgets after insert or update on inbox
        deferrable initially deferred for each row execute function forget();
    do $$ declare one record; begin
        for one in
            select c.conrelid::regclass as place, c.conname from pg_constraint as c join pg_attribute as a
            on a.attrelid = c.conrelid and c.conkey = array[a.attnum] and a.attname = 'message_id'
            where c.conrelid in ('notifications'::regclass, 'email_messages'::regclass) and c.contype in ('p', 'u')
        loop execute format('alter table %s drop constraint %I', one.place, one.conname); end loop;
    end $$;
"""

WEBHOOKS_OUT_OF_LINE = """
    create function hurry() returns trigger language plpgsql as
        $$ begin new.due_at := clock_timestamp(); return new; end $$;
    create trigger hurries before insert on webhook_deliveries for each row execute function hurry();
"""


def cursor_by_id() -> None:
    """Order the feed by the events' ids, as if these were assigned in the order of commits."""
    from services.conversations.event_log import reader
    from services.conversations.event_log.payloads import READ_PAYLOAD
    from services.conversations.models import FeedHead
    from shared.events import Event, Feed

    by_id = text(f"""
        select id, type, version, seq as position, occurred_at, {READ_PAYLOAD} as payload from events
        where seq > :after order by seq limit :limit
    """)  # noqa: S608 - built from constants

    async def read_feed(session: AsyncSession, *, after: int, limit: int, **_: Any) -> Feed:
        rows = await session.execute(by_id, {"after": after, "limit": limit})
        items = [Event.model_validate(dict(row)) for row in rows.mappings()]
        head = await session.scalar(text("select coalesce(max(seq), 0) from events"))
        epoch = (await session.execute(select(FeedHead.epoch))).scalar_one()
        return Feed(epoch=epoch, head=head or 0, items=items)

    reader.read_feed = read_feed


def mark_before_send() -> None:
    """Record an email as sent just before it is."""
    from services.notifications.delivery import attempt_recorder
    from services.notifications.delivery.attempts import begin_data
    from services.notifications.delivery.leases import ClaimedEmail
    from shared.database.engine import Driver

    async def begin_and_mark(connection: Driver, emails: Sequence[ClaimedEmail]) -> set[UUID]:
        held = await begin_data(connection, emails)
        await connection.execute(_MARK_SENT, held)
        return held

    attempt_recorder.begin_data = begin_and_mark  # type: ignore[attr-defined]


_MARK_SENT = """
update emails set state = 'sent', finished_at = clock_timestamp(), content = null,
    lease_id = null, lease_until = null, data_at = null
where id = any($1)
"""


def one_webhook_attempt() -> None:
    """Give a webhook's delivery up when its first attempt fails."""
    from services.conversations.webhooks import results

    row = results._row  # noqa: SLF001 - the flaw
    results._row = lambda result, schedule: row(result, schedule[:1])  # noqa: SLF001 - the flaw


FLAWS: dict[str, Callable[[], None]] = {
    "cursor-by-id": cursor_by_id,
    "mark-before-send": mark_before_send,
    "one-webhook-attempt": one_webhook_attempt,
}
"""The change to a process before it starts."""


@dataclass(frozen=True)
class Broken:
    """A broken build, the faults that expose it, and the fault that the verdict has to report."""

    caught_as: str
    faults: Callable[[World], Sequence[Fault]]
    flaw: str | None = None
    sql: dict[str, str] = field(default_factory=dict)
    without: str | None = None
    seconds: float = 10.0
    drain: float = 8.0


def _no_more_hints(world: World) -> Sequence[Fault]:
    """Kill the broker for good. If it came back, the hints that the relay keeps would repair most of the damage."""

    async def kill(_: random.Random) -> None:
        if world.processes.runs("broker"):
            await world.processes.kill("broker")

    return [Fault("servers", "kill -9 and absence", "broker", kill)]


def _refusals(world: World) -> Sequence[Fault]:
    """Reject emails after DATA, in every possible way."""

    async def refuse(_: random.Random) -> None:
        for answers in ({"data": ["451 4.3.0 later"] * 2}, {"content": [DROP] * 2}, {"end": ["452 4.3.1 full"] * 2}):
            world.mail_server.script.update(answers)
            await asyncio.sleep(1)

    return [Fault("mail", "SMTP: 4xx and hanging up, from DATA on", "mail server", refuse)]


BROKEN = {
    "inbox-off": Broken("with two notifications", lambda _: [], sql={"notifications": INBOX_FORGETS}),
    "cursor-by-id": Broken(
        "without a notification",
        _no_more_hints,
        flaw="cursor-by-id",
        sql={"conversations": COMMITS_COME_LATE},
    ),
    "mark-before-send": Broken("recorded as sent, but not accepted by the server", _refusals, flaw="mark-before-send"),
    "webhooks-out-of-line": Broken("webhooks out of order", lambda _: [], sql={"conversations": WEBHOOKS_OUT_OF_LINE}),
    "one-webhook-attempt": Broken("messages in no webhook", lambda _: [], flaw="one-webhook-attempt"),
    "no-sweeper": Broken("without a notification", _no_more_hints, without="sweeper"),
}


async def strike(name: str, seed: int, fork: Spawn = spawn) -> list[str]:
    """Run one of the broken builds; return the names of what is wrong."""
    build = BROKEN[name]
    command = [sys.executable, "-m", "bench.chaos.broken", build.flaw] if build.flaw else []
    start = spawn if build.flaw else fork  # a fork has imported what the flaw must replace before
    names = [process for process in PROCESSES if process != build.without]
    # Few posts, so that a missing notification is lost and not only late.
    plan = Plan(
        seed=seed,
        seconds=build.seconds,
        calm=1,
        drain=build.drain,
        faults=build.faults,
        writers=6,
        pause=0.6,
    )
    async with our_system(seed, names=names, command=command, sql=build.sql, spawn=start) as system:
        return await run(plan, system, title=f"Customer Chats, broken: {name}")


def main() -> None:
    """Start `chats` with a flaw."""
    from deploy.cli import main as chats

    flaw = sys.argv.pop(1)
    FLAWS[flaw]()
    chats()


if __name__ == "__main__":
    main()
