"""The check of the check: builds that break the promise on purpose, each of which the nemesis has to catch.

As a program it starts a process of such a build: `python -m bench.chaos.broken cursor-by-id api --port 8001`.
"""

import asyncio
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bench.chaos.faults import Fault, World, all_faults
from bench.chaos.ours import our_system
from bench.chaos.proxy import Trouble, Weather
from bench.chaos.run import Plan, run
from tests.system.product import PROCESSES

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


def cursor_by_id() -> None:
    """Let the feed go by the ids of events, as if these appeared in the order of commits."""
    from services.conversations import log
    from services.conversations.models import FeedHead
    from shared.events import Event, Feed

    by_id = text("""
        select id, type, version, seq as position, occurred_at, payload from events
        where seq > :after order by seq limit :limit
    """)

    async def read_feed(session: AsyncSession, *, after: int, limit: int, **_: Any) -> Feed:
        rows = await session.execute(by_id, {"after": after, "limit": limit})
        items = [Event.model_validate(dict(row)) for row in rows.mappings()]
        head = await session.scalar(text("select coalesce(max(seq), 0) from events"))
        epoch = (await session.execute(select(FeedHead.epoch))).scalar_one()
        return Feed(epoch=epoch, head=head or 0, items=items)

    log.read_feed = read_feed


def mark_before_send() -> None:
    """Let a mail be recorded as sent just before it is."""
    from services.notifications import sending
    from services.notifications.emails import move_emails
    from services.notifications.leases import ClaimedEmail, begin_data
    from services.notifications.rules import EmailState

    async def begin_and_mark(session: AsyncSession, email: ClaimedEmail) -> bool:
        held = await begin_data(session, email)
        await move_emails(session, email.held, EmailState.SENT, {}, leaving=(EmailState.SENDING,))
        return held

    sending.begin_data = begin_and_mark  # type: ignore[attr-defined]


FLAWS: dict[str, Callable[[], None]] = {"cursor-by-id": cursor_by_id, "mark-before-send": mark_before_send}
"""What is changed in a process before it starts."""


@dataclass(frozen=True)
class Broken:
    """A broken build, the faults that bring it to light, and how the verdict has to call at least one of its sins."""

    caught_as: str
    faults: Callable[[World], Sequence[Fault]]
    flaw: str | None = None
    sql: str = ""
    without: str | None = None
    seconds: float = 10.0
    drain: float = 8.0
    writers: int = 6
    opens: float = 0.0


def _chosen(*kinds: str) -> Callable[[World], Sequence[Fault]]:
    return lambda world: [fault for fault in all_faults(world, long=False) if fault.kind in kinds]


def _late_commits(world: World) -> Sequence[Fault]:
    """Half of the API's connections to its database are slow, and no hint makes up for what the cursor misses."""
    [link] = [link for link in world.links if link.name == "api to postgres"]

    async def no_broker(_: random.Random) -> None:
        await world.processes.kill("broker")
        await asyncio.sleep(BROKEN["cursor-by-id"].seconds)

    async def slow(_: random.Random) -> None:
        link.strike(Weather(Trouble.LATENCY, delay=0.8, share=0.5))
        await asyncio.sleep(BROKEN["cursor-by-id"].seconds)
        link.heal()

    return [
        Fault("servers", "absence", "broker", no_broker),
        Fault("network", "network: latency", link.name, slow),
    ]


BROKEN = {
    "inbox-off": Broken("with two records", lambda _: [], sql=INBOX_FORGETS),
    "cursor-by-id": Broken("events not handled", _late_commits, flaw="cursor-by-id", seconds=20, writers=16, opens=0.5),
    "mark-before-send": Broken(
        "sent by our account, and not with the server",
        _chosen("SMTP: hung up before the dot", "SMTP: 4xx"),
        flaw="mark-before-send",
    ),
    "no-sweeper": Broken("without a record", _chosen("FLUSHALL", "kill -9 and absence"), without="sweeper"),
}


async def strike(name: str, seed: int) -> list[str]:
    """Run one of the broken builds; return the names of what was found to be wrong."""
    build = BROKEN[name]
    command = [sys.executable, "-m", "bench.chaos.broken", build.flaw] if build.flaw else []
    names = [one for one in PROCESSES if one != build.without]
    # Few posts: what is missing then is lost, and not only late.
    plan = Plan(
        seed=seed,
        seconds=build.seconds,
        calm=1,
        drain=build.drain,
        faults=build.faults,
        writers=build.writers,
        pause=0.6,
        opens=build.opens,
    )
    async with our_system(seed, names=names, command=command, sql=build.sql) as system:
        return await run(plan, system, title=f"Customer Chats, broken: {name}")


def main() -> None:
    """Start `chats` with a flaw."""
    from deploy.cli import main as chats

    flaw = sys.argv.pop(1)
    FLAWS[flaw]()
    chats()


if __name__ == "__main__":
    main()
