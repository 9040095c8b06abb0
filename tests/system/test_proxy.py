"""The fault-injecting proxy: its disturbances do what they are named after."""

import asyncio
import random
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator

import pytest

from bench.chaos.proxy import Disturbance, Link, Trouble, proxied
from tests.helpers.waiting import eventually


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """A link to a server that echoes everything, and ends when its client does."""

    async def echo(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    link = Link("test", server.sockets[0].getsockname()[1], random.Random(1))
    async with proxied(link):
        yield link
    server.close()
    await server.wait_closed()


async def talk(writer: StreamWriter, reader: StreamReader, text: bytes) -> bytes:
    writer.write(text)
    return await asyncio.wait_for(reader.readexactly(len(text)), 30)


async def connect(link: Link) -> tuple[StreamReader, StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", link.port)


async def test_everything_passes_in_order_including_the_end_of_the_stream(link: Link) -> None:
    reader, writer = await connect(link)
    text = random.Random(2).randbytes(3_000_000)
    assert await talk(writer, reader, text) == text
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    await eventually(lambda: not link.pairs)


async def test_latency_delays_and_keeps_the_order_even_when_it_ends(link: Link) -> None:
    reader, writer = await connect(link)
    await talk(writer, reader, b"hello")
    link.strike(Disturbance(Trouble.LATENCY, delay=1.0))
    started = asyncio.get_running_loop().time()
    writer.write(b"one ")
    await asyncio.sleep(0.02)
    [delay] = [pair.delay for pair in link.pairs]
    link.heal()
    writer.write(b"two")
    assert await asyncio.wait_for(reader.readexactly(7), 30) == b"one two"
    assert asyncio.get_running_loop().time() - started >= delay * 0.9 > 0
    writer.close()


async def test_a_reset_ends_open_and_new_connections_until_it_heals(link: Link) -> None:
    reader, writer = await connect(link)
    await talk(writer, reader, b"hello")
    link.strike(Disturbance(Trouble.RESET))
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 30)
    writer.close()
    reader, writer = await connect(link)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 30)
    writer.close()
    link.heal()
    reader, writer = await connect(link)
    assert await talk(writer, reader, b"again") == b"again"
    writer.close()


@pytest.mark.parametrize("cut", [False, True])
async def test_a_black_hole_holds_everything_and_delivers_it_or_cuts(link: Link, *, cut: bool) -> None:
    before, writer_before = await connect(link)
    await talk(writer_before, before, b"hello")
    link.strike(Disturbance(Trouble.BLACK_HOLE))
    within, writer_within = await connect(link)
    for writer in (writer_before, writer_within):
        writer.write(b"is there anybody?")
    for reader in (before, within):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(100), 0.1)
    link.heal(cut=cut)
    for reader in (before, within):
        if cut:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 30)
        else:
            assert await asyncio.wait_for(reader.readexactly(17), 30) == b"is there anybody?"
    for writer in (writer_before, writer_within):
        writer.close()


async def test_a_half_close_ends_one_direction(link: Link) -> None:
    reader, writer = await connect(link)
    await talk(writer, reader, b"hello")
    link.strike(Disturbance(Trouble.HALF_CLOSE))
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    await eventually(lambda: not link.pairs)


async def test_a_share_limits_the_affected_connections(link: Link) -> None:
    ends = [await connect(link) for _ in range(40)]
    for reader, writer in ends:
        await talk(writer, reader, b"hello")
    link.strike(Disturbance(Trouble.RESET, share=0.5))
    await eventually(lambda: 5 < len(link.pairs) < 35)
    for _, writer in ends:
        writer.close()
    await eventually(lambda: not link.pairs)


async def test_a_missing_target_resets_the_connection() -> None:
    server = await asyncio.start_server(lambda _, __: None, "127.0.0.1", 0)
    link = Link("nowhere", server.sockets[0].getsockname()[1], random.Random(1))
    server.close()
    await server.wait_closed()
    async with proxied(link):
        reader, writer = await connect(link)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 30)
        writer.close()
