"""Many clients at the same moment: after a restart or a broken network all come back within seconds."""

import asyncio
import time
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

from sqlalchemy import text

from services.conversations.errors import TooManyStreams
from services.conversations.event_log.position import encode_position
from services.conversations.event_log.reader import read_head, read_page, read_pages
from services.conversations.identity.sessions import begin, end
from services.conversations.realtime.connection import Connection
from services.conversations.realtime.hub import Hub
from services.conversations.realtime.stream_admission import StreamAdmission
from services.conversations.realtime.stream_quota import STREAMS_PER_PERSON, StreamQuota
from services.conversations.rules import Side
from shared.auth import Principal, Role
from shared.database import SessionFactory, connection_provider, create_engine, create_sessions, transaction
from shared.problems import Unauthenticated
from tests.helpers.waiting import eventually
from tests.service.helpers.callers import Caller
from tests.service.helpers.live_api import Live, log_updates
from tests.service.helpers.valkey_process import Valkey
from tests.service.realtime.test_stream_quota import process

ADMINS = 12


async def listen(hub: Hub, stream: Connection, after: int, heard: list[int]) -> None:
    """Hear what a client hears, positions only, until its stream ends."""
    with hub.open(stream, None):
        async for some in hub.events(stream, encode_position(stream.epoch, after)):
            heard += [shown.position for shown in some if shown.position is not None]


async def test_each_of_a_crowd_that_comes_back_hears_its_own_in_order_and_once_while_others_write(
    live: Live, anna: Caller, ben: Caller, conversations: SessionFactory
) -> None:
    talks = {"anna": (await anna.open())["id"], "ben": (await ben.open())["id"]}
    for person, talk in [*talks.items()] * 20:
        await log_updates(conversations, person, talk, 2)
    await live.number()
    async with conversations() as session:
        head = await read_head(session)
    customers = [Connection(person, Side.CUSTOMER, head) for person in talks for _ in range(STREAMS_PER_PERSON)]
    crowd = [*customers, *(Connection(f"admin-{n}", Side.ADMIN, head) for n in range(ADMINS))]
    places = [turn * 31 % head[1] for turn in range(len(crowd))]
    heard: list[list[int]] = [[] for _ in crowd]
    async with live.numbering(), asyncio.TaskGroup() as group:
        for client in zip(crowd, places, heard, strict=True):
            group.create_task(listen(live.hub, *client))
        for person, talk in [*talks.items()] * 10:
            await log_updates(conversations, person, talk, 3)
        async with conversations() as session:
            whose = (await session.scalars(text("select user_id from events order by seq"))).all()
        log = list(enumerate(whose, 1))
        own = [
            [place for place, user_id in log if place > after and stream.audience in {None, user_id}]
            for stream, after in zip(crowd, places, strict=True)
        ]
        await eventually(lambda: heard == own, deadline=30)
        for stream in crowd:
            stream.end()


async def test_what_is_read_for_many_is_what_each_would_read_alone(
    live: Live, anna: Caller, ben: Caller, conversations: SessionFactory
) -> None:
    talk = (await anna.open(body="Hello?"))["id"]
    await ben.open(body="And me?")
    await log_updates(conversations, "anna", talk, 6)
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
            together = await read_pages(session, readers, limit=limit)
            for (named, after, user_id), stretch in zip(readers, together, strict=True):
                alone = await read_page(session, named, after, limit=limit, user_id=user_id)
                assert (stretch.epoch, stretch.lost) == (alone.epoch, alone.lost)
                if user_id is not None or limit == 100:
                    assert (stretch.end, list(stretch.entries)) == (alone.end, list(alone.entries))
                else:  # these share what is read: whoever is ahead waits for the others
                    assert list(alone.entries)[: len(stretch.entries)] == list(stretch.entries)
                    assert after <= stretch.end <= alone.end or stretch.lost


async def test_each_of_many_at_the_door_gets_a_verdict_of_their_own(
    conversations: SessionFactory, databases: dict[str, str], anna: Caller, ben: Caller, shop: Caller
) -> None:
    for known in (anna, ben):
        await known.open()
    assert (await shop.call("DELETE", "/users/ben")).status_code == 204
    async with transaction(conversations) as session:
        living, over = [await begin(session, "anna", Side.CUSTOMER) for _ in range(2)]
        await end(session, over.id)
    callers = {
        "by token": Principal("anna", Role.CUSTOMER),
        "by session": Principal("anna", Role.CUSTOMER, session_id=living.id),
        "new": Principal("zoe", Role.CUSTOMER, name="Zoe"),
        "with news": Principal("anna", Role.CUSTOMER, locale="de", issued_at=int(time.time())),
        "deleted": Principal("ben", Role.CUSTOMER),
        "session over": Principal("anna", Role.CUSTOMER, session_id=over.id),
        "session of another side": Principal("anna", Role.ADMIN, session_id=living.id),
        "session of another": Principal("zoe", Role.CUSTOMER, session_id=living.id),
        "session made up": Principal("anna", Role.CUSTOMER, session_id=uuid4()),
    }
    engine = create_engine(databases["conversations"], application="chats-door")
    door = StreamAdmission(create_sessions(engine), connection_provider(engine))
    found = await asyncio.gather(*map(door.admit, callers.values()), return_exceptions=True)
    await engine.dispose()
    async with conversations() as session:
        head = await read_head(session)
        people = (await session.execute(text("select id, name, locale from users order by id"))).all()
    verdicts = {name: verdict == head for name, verdict in zip(callers, found, strict=True)}
    assert [name for name, is_in in verdicts.items() if is_in] == ["by token", "by session", "new", "with news"]
    assert all(
        verdicts[name] or isinstance(verdict, Unauthenticated) for name, verdict in zip(callers, found, strict=True)
    )
    assert ("zoe", "Zoe", None) in people
    assert "de" in {person.locale for person in people if person.id == "anna"}


async def test_no_more_places_are_given_when_all_are_asked_for_at_the_same_moment(valkey: Valkey) -> None:
    async def take(stack: AsyncExitStack, places: StreamQuota, person: str) -> str | None:
        try:
            await stack.enter_async_context(places.acquire(person))
        except TooManyStreams:
            return None
        return person

    people = ["anna"] * (STREAMS_PER_PERSON + 3) + ["ben"] * STREAMS_PER_PERSON
    async with process(valkey.url) as one, process(valkey.url) as other, AsyncExitStack() as stack:
        asked = [take(stack, (one, other)[turn % 2], person) for turn, person in enumerate(people)]
        given = await asyncio.gather(*asked)
        assert sorted(filter(None, given)) == ["anna"] * STREAMS_PER_PERSON + ["ben"] * STREAMS_PER_PERSON


async def test_a_hub_that_is_told_of_news_as_it_is_cancelled_ends(conversations: SessionFactory) -> None:
    for turns in range(8):
        hub = Hub(conversations, lambda *_: None, str)
        following = asyncio.create_task(hub._follow())  # noqa: SLF001 - the group around it would wait for its end
        waiting = hub._wakeup._waiters  # noqa: SLF001 - nothing else tells who waits
        await eventually(waiting.__len__)
        hub.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
        following.cancel()
        ended, _ = await asyncio.wait([following], timeout=30)
        following.cancel()
        assert ended, f"cancelled {turns} turns of the event loop behind the news"
