"""The queue of events for one client of a live stream."""

import asyncio
from uuid import UUID

import pytest

from services.conversations.realtime.connection import MAX_CHUNK, PING_AFTER, UNREAD, Connection, SseEvent
from services.conversations.rules import Side


def event(position: int, data: str = "{}") -> SseEvent:
    return SseEvent("message.posted", data, position, f"at-{position}")


@pytest.fixture
async def stream() -> Connection:
    """A stream at position 7."""
    return Connection("anna", Side.CUSTOMER, (UUID(int=1), 7))


async def test_an_event_is_encoded_as_browsers_read_it() -> None:
    assert event(8, '{"a":"é"}').encoded == 'event: message.posted\ndata: {"a":"é"}\nid: at-8\n\n'.encode()
    assert SseEvent(None, None, id="at-8").encoded == b"id: at-8\n\n"
    assert SseEvent(None, None).encoded == b": ping\n\n"


def test_several_events_of_one_entry_of_the_log_have_one_id_at_their_end() -> None:
    together = SseEvent("email.updated", "2", 8, "at-8", before=("1",))
    assert together.encoded == b"event: email.updated\ndata: 1\n\nevent: email.updated\ndata: 2\nid: at-8\n\n"


async def test_a_client_gets_no_event_and_no_unread_count_twice(stream: Connection) -> None:
    first_count, second_count = SseEvent(UNREAD, '{"unread":1}'), SseEvent(UNREAD, '{"unread":2}')
    stream.push([event(7), event(8), first_count])
    stream.push([event(8), event(9), first_count, second_count])
    assert await anext(stream.events()) == [event(8), first_count, event(9), second_count]
    assert stream.position == 9


async def test_many_waiting_events_are_delivered_in_chunks(stream: Connection) -> None:
    stream.push(
        [event(8, "x" * (MAX_CHUNK // 2)), event(9, "x" * (MAX_CHUNK // 2)), event(10, "x" * MAX_CHUNK), event(11)]
    )
    chunks = stream.events()
    assert [[waiting.position for waiting in await anext(chunks)] for _ in range(4)] == [[8], [9], [10], [11]]
    assert stream.is_served


async def test_an_idle_client_gets_no_second_ping_until_it_has_read_the_first(stream: Connection) -> None:
    now = asyncio.get_running_loop().time()
    stream.keep_alive(now + PING_AFTER - 1)
    assert stream.is_served
    for seconds in (1, 1000):
        stream.keep_alive(now + PING_AFTER + seconds)
    assert [waiting.encoded for waiting in await anext(stream.events())] == [b": ping\n\n"]
