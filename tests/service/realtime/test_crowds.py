"""Many clients at the same moment: after a restart or a network failure all are back within seconds."""

import asyncio
import time
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

from sqlalchemy import text

from services.conversations.errors import TooManyStreams
from services.conversations.event_log.position import encode_position
from services.conversations.event_log.reader import read_page, read_pages
from services.conversations.identity.sessions import begin, end
from services.conversations.realtime.connection import Connection
from services.conversations.realtime.hub import Hub
from services.conversations.realtime.stream_admission import StreamAdmission
from services.conversations.realtime.stream_quota import STREAMS_PER_PERSON, StreamQuota
from services.conversations.rules import Side
from shared.auth.principal import Principal
from shared.database.engine import create_engine
from shared.database.transactions import (
    SessionFactory,
    connection_provider,
    create_sessions,
    driver_connection,
    transaction,
)
from shared.event_log.reading import read_head
from shared.problems import Unauthenticated
from shared.settings import Role
from tests.helpers.waiting import eventually
from tests.service.helpers.callers import Caller
from tests.service.helpers.live_api import Live, log_updates
from tests.service.helpers.valkey_process import Valkey
from tests.service.realtime.test_stream_quota import process

ADMINS = 12


async def listen(hub: Hub, stream: Connection, after: int, received: list[int]) -> None:
    """Collect the positions that a client receives, until its stream ends."""
    with hub.open(stream, None):
        async for events in hub.events(stream, encode_position(stream.epoch, after)):
            received += [event.position for event in events if event.position is not None]


async def test_every_reconnecting_client_receives_its_events_in_order_once_while_others_post(
    live: Live, anna: Caller, ben: Caller, conversations: SessionFactory
) -> None:
    conversations_of = {"anna": (await anna.open())["id"], "ben": (await ben.open())["id"]}
    for person, conversation in [*conversations_of.items()] * 20:
        await log_updates(conversations, person, conversation, 2)
    await live.number()
    async with conversations() as session:
        head = await read_head(session)
    customers = [
        Connection(person, Side.CUSTOMER, head) for person in conversations_of for _ in range(STREAMS_PER_PERSON)
    ]
    crowd = [*customers, *(Connection(f"admin-{n}", Side.ADMIN, head) for n in range(ADMINS))]
    positions = [turn * 31 % head[1] for turn in range(len(crowd))]
    received: list[list[int]] = [[] for _ in crowd]
    async with live.numbering(), asyncio.TaskGroup() as group:
        for client in zip(crowd, positions, received, strict=True):
            group.create_task(listen(live.hub, *client))
        for person, conversation in [*conversations_of.items()] * 10:
            await log_updates(conversations, person, conversation, 3)
        async with conversations() as session:
            user_ids = (await session.scalars(text("select user_id from events order by seq"))).all()
        log = list(enumerate(user_ids, 1))
        own = [
            [position for position, user_id in log if position > after and stream.audience in {None, user_id}]
            for stream, after in zip(crowd, positions, strict=True)
        ]
        await eventually(lambda: received == own, deadline=30)
        for stream in crowd:
            stream.end()


async def test_reading_for_many_clients_gives_each_what_it_would_read_alone(
    live: Live, anna: Caller, ben: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await ben.open(body="And me?")
    await log_updates(conversations, "anna", conversation, 6)
    await live.number()
    async with transaction(conversations) as session:
        epoch, head = await read_head(session)
        await session.execute(text("delete from events where position = 1"))
        readers = [
            (named, after, user_id)
            for named in (epoch, UUID(int=7))
            for after in (0, 1, 3, head - 1, head, head + 1)
            for user_id in (None, "anna", "ben", "nobody")
        ]
        for limit in (3, 100):
            together = await read_pages(await driver_connection(session), readers, limit=limit)
            for (named, after, user_id), page in zip(readers, together, strict=True):
                alone = await read_page(await driver_connection(session), named, after, limit=limit, user_id=user_id)
                assert (page.epoch, page.lost) == (alone.epoch, alone.lost)
                if user_id is not None or limit == 100:
                    assert (page.end, list(page.entries)) == (alone.end, list(alone.entries))
                else:  # these clients share one page: those ahead wait for the others
                    assert list(alone.entries)[: len(page.entries)] == list(page.entries)
                    assert after <= page.end <= alone.end or page.lost


async def test_each_of_many_concurrent_admissions_gets_its_own_result(
    conversations: SessionFactory, databases: dict[str, str], anna: Caller, ben: Caller, shop: Caller
) -> None:
    for caller in (anna, ben):
        await caller.open()
    assert (await shop.call("DELETE", "/users/ben")).status_code == 204
    async with transaction(conversations) as session:
        living, ended = [await begin(session, "anna", Side.CUSTOMER) for _ in range(2)]
        await end(session, ended.id)
    callers = {
        "by token": Principal("anna", Role.CUSTOMER),
        "by session": Principal("anna", Role.CUSTOMER, session_id=living.id),
        "new": Principal("zoe", Role.CUSTOMER, name="Zoe"),
        "with news": Principal("anna", Role.CUSTOMER, locale="de", issued_at=int(time.time())),
        "deleted": Principal("ben", Role.CUSTOMER),
        "session ended": Principal("anna", Role.CUSTOMER, session_id=ended.id),
        "session of another side": Principal("anna", Role.ADMIN, session_id=living.id),
        "session of another": Principal("zoe", Role.CUSTOMER, session_id=living.id),
        "session made up": Principal("anna", Role.CUSTOMER, session_id=uuid4()),
    }
    engine = create_engine(databases["conversations"], application="chats-door")
    admission = StreamAdmission(create_sessions(engine), connection_provider(engine))
    results = await asyncio.gather(*map(admission.admit, callers.values()), return_exceptions=True)
    await engine.dispose()
    async with conversations() as session:
        head = await read_head(session)
        people = (await session.execute(text("select id, name, locale from users order by id"))).all()
    admitted = {name: result == head for name, result in zip(callers, results, strict=True)}
    assert [name for name, is_in in admitted.items() if is_in] == ["by token", "by session", "new", "with news"]
    assert all(
        admitted[name] or isinstance(result, Unauthenticated) for name, result in zip(callers, results, strict=True)
    )
    assert ("zoe", "Zoe", None) in people
    assert "de" in {person.locale for person in people if person.id == "anna"}


async def test_concurrent_requests_do_not_exceed_the_stream_quota(valkey: Valkey) -> None:
    async def take(stack: AsyncExitStack, quota: StreamQuota, person: str) -> str | None:
        try:
            await stack.enter_async_context(quota.acquire(person))
        except TooManyStreams:
            return None
        return person

    people = ["anna"] * (STREAMS_PER_PERSON + 3) + ["ben"] * STREAMS_PER_PERSON
    async with process(valkey.url) as one, process(valkey.url) as other, AsyncExitStack() as stack:
        requests = [take(stack, (one, other)[turn % 2], person) for turn, person in enumerate(people)]
        acquired = await asyncio.gather(*requests)
        assert sorted(filter(None, acquired)) == ["anna"] * STREAMS_PER_PERSON + ["ben"] * STREAMS_PER_PERSON


async def test_a_hub_ends_when_it_is_cancelled_while_being_woken(conversations: SessionFactory) -> None:
    for iterations in range(8):
        hub = Hub(conversations, lambda *_: [], str)
        following = asyncio.create_task(hub._follow())  # noqa: SLF001 - the public method would wait for its end
        waiting = hub._wakeup._waiters  # noqa: SLF001 - the only way to see who waits
        await eventually(waiting.__len__)
        hub.wake()
        for _ in range(iterations):
            await asyncio.sleep(0)
        following.cancel()
        ended, _ = await asyncio.wait([following], timeout=30)
        following.cancel()
        assert ended, f"cancelled {iterations} iterations after the wake-up"
