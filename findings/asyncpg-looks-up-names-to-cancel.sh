#!/bin/sh
# asyncpg 0.32.0: after a statement's timeout, asyncpg looks up the server's name again to cancel the statement, although its
# connection is open, and `close()` waits for that. While name servers are silent, closing takes as long as a lookup.
# Expected: the cancel request goes to the address of the connection, as libpq sends it.
# The script fails if the name is looked up once, or closing does not wait.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check asyncpg==0.32.0
cat > "$folder/cancel.py" <<'PY'
import asyncio
import struct
import time
from contextlib import suppress

import asyncpg

TIMEOUT, LOOKUP = 0.5, 2.0  # seconds
READY = b"Z" + struct.pack("!I", 5) + b"I"
sessions = []


def message(kind, content):
    return kind + struct.pack("!I", len(content) + 4) + content


async def serve(reader, writer):
    """Speak PostgreSQL's protocol. The first statement gets no answer until it is cancelled."""
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    request = await reader.readexactly(length - 4)
    if request[:4] == struct.pack("!I", 80877102):
        sessions[0].write(message(b"E", b"SERROR\0C57014\0Mcanceled\0\0") + READY)
    else:
        sessions.append(writer)
        status = [b"server_version\x0018.0\0", b"client_encoding\0UTF8\0", b"server_encoding\0UTF8\0"]
        begin = [message(b"R", bytes(4)), *(message(b"S", each) for each in status), message(b"K", bytes(8)), READY]
        writer.write(b"".join(begin))
        while (await reader.read(1_000))[:1] not in (b"X", b""):  # until the client closes
            pass
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    loop, lookups = asyncio.get_running_loop(), []
    look_up = loop.getaddrinfo

    async def look_up_slowly(host, *arguments, **options):
        if host == "localhost":
            lookups.append(host)
            if len(lookups) > 1:
                await asyncio.sleep(LOOKUP)  # the name servers have become slow
        return await look_up("127.0.0.1" if host == "localhost" else host, *arguments, **options)

    loop.getaddrinfo = look_up_slowly
    connection = await asyncpg.connect(f"postgresql://anna@localhost:{port}/store", ssl=False)
    with suppress(TimeoutError):
        await connection.execute("select pg_sleep(60)", timeout=TIMEOUT)
    started = time.monotonic()
    await connection.close()
    seconds = time.monotonic() - started
    print(f"closing took {seconds:.1f} s; lookups of the server's name: {len(lookups)}")
    server.close()
    assert len(lookups) == 2 and seconds > LOOKUP - 0.5


asyncio.run(main())
PY
"$folder/venv/bin/python" "$folder/cancel.py"
