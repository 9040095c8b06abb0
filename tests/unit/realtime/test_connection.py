"""What waits for one client of a live stream."""

import asyncio
from uuid import UUID

import pytest

from services.conversations.realtime.connection import AT_ONCE, QUIET, UNREAD, Shown, Stream
from services.conversations.rules import Side


def event(position: int, data: str = "{}") -> Shown:
    return Shown("message.posted", data, position, f"at-{position}")


@pytest.fixture
async def stream() -> Stream:
    """A stream that stands at position 7."""
    return Stream("anna", Side.CUSTOMER, (UUID(int=1), 7))


async def test_an_event_is_encoded_as_browsers_read_it() -> None:
    assert event(8, '{"a":"é"}').wire == 'event: message.posted\ndata: {"a":"é"}\nid: at-8\n\n'.encode()
    assert Shown(None, None, id="at-8").wire == b"id: at-8\n\n"
    assert Shown(None, None).wire == b": ping\n\n"


async def test_a_client_is_given_nothing_twice_and_no_number_of_unread_that_it_knows(stream: Stream) -> None:
    one, two = Shown(UNREAD, '{"unread":1}'), Shown(UNREAD, '{"unread":2}')
    stream.give([event(7), event(8), one])
    stream.give([event(8), event(9), one, two])
    assert await anext(stream.taken()) == [event(8), one, event(9), two]
    assert stream.position == 9


async def test_much_that_waits_is_given_by_parts(stream: Stream) -> None:
    stream.give([event(8, "x" * (AT_ONCE // 2)), event(9, "x" * (AT_ONCE // 2)), event(10, "x" * AT_ONCE), event(11)])
    given = stream.taken()
    assert [[shown.position for shown in await anext(given)] for _ in range(4)] == [[8], [9], [10], [11]]
    assert stream.is_served


async def test_a_quiet_client_is_told_that_the_stream_lives_once_until_it_has_taken_that(stream: Stream) -> None:
    now = asyncio.get_running_loop().time()
    stream.keep_alive(now + QUIET - 1)
    assert stream.is_served
    for seconds in (1, 1000):
        stream.keep_alive(now + QUIET + seconds)
    assert [shown.wire for shown in await anext(stream.taken())] == [b": ping\n\n"]
