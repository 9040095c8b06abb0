"""What waits for one client of a live stream."""

import asyncio
from uuid import UUID

import pytest

from services.conversations.realtime.connection import MAX_CHUNK, PING_AFTER, UNREAD, Connection, SseEvent
from services.conversations.rules import Side


def event(position: int, data: str = "{}") -> SseEvent:
    return SseEvent("message.posted", data, position, f"at-{position}")


@pytest.fixture
async def stream() -> Connection:
    """A stream that stands at position 7."""
    return Connection("anna", Side.CUSTOMER, (UUID(int=1), 7))


async def test_an_event_is_encoded_as_browsers_read_it() -> None:
    assert event(8, '{"a":"é"}').encoded == 'event: message.posted\ndata: {"a":"é"}\nid: at-8\n\n'.encode()
    assert SseEvent(None, None, id="at-8").encoded == b"id: at-8\n\n"
    assert SseEvent(None, None).encoded == b": ping\n\n"


async def test_a_client_is_given_nothing_twice_and_no_number_of_unread_that_it_knows(stream: Connection) -> None:
    one, two = SseEvent(UNREAD, '{"unread":1}'), SseEvent(UNREAD, '{"unread":2}')
    stream.push([event(7), event(8), one])
    stream.push([event(8), event(9), one, two])
    assert await anext(stream.events()) == [event(8), one, event(9), two]
    assert stream.position == 9


async def test_much_that_waits_is_given_by_parts(stream: Connection) -> None:
    stream.push(
        [event(8, "x" * (MAX_CHUNK // 2)), event(9, "x" * (MAX_CHUNK // 2)), event(10, "x" * MAX_CHUNK), event(11)]
    )
    given = stream.events()
    assert [[shown.position for shown in await anext(given)] for _ in range(4)] == [[8], [9], [10], [11]]
    assert stream.is_served


async def test_a_quiet_client_is_told_that_the_stream_lives_once_until_it_has_taken_that(stream: Connection) -> None:
    now = asyncio.get_running_loop().time()
    stream.keep_alive(now + PING_AFTER - 1)
    assert stream.is_served
    for seconds in (1, 1000):
        stream.keep_alive(now + PING_AFTER + seconds)
    assert [shown.encoded for shown in await anext(stream.events())] == [b": ping\n\n"]
