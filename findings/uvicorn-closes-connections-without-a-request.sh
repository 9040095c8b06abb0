#!/bin/sh
# uvicorn 0.54.0: a graceful shutdown (SIGTERM) closes at once every connection that has not sent a request yet, and
# reads nothing more from it. A proxy that has just connected, or that holds the connection for its next request, sends
# the request and gets no answer; it must not repeat a POST.
# Expected: what "graceful" says of requests: a connection that is open gets an answer to a request that arrives within
# `timeout_graceful_shutdown`, with `Connection: close`.
# The script fails if such a request is answered.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uvicorn==0.54.0
cat > "$folder/shutdown.py" <<'PY'
import asyncio
import socket

import uvicorn

REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi"


async def app(scope, receive, send):
    if scope["type"] == "http":
        await receive()
        await asyncio.sleep(1)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def ask(reader, writer):
    """Send a request; return the status line, or nothing when the connection was closed."""
    try:
        writer.write(REQUEST)
        return await reader.readline()
    except OSError:
        return b""


async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error", timeout_graceful_shutdown=10))
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    address = listener.getsockname()
    with_request, fresh = await asyncio.open_connection(*address), await asyncio.open_connection(*address)
    first = asyncio.create_task(ask(*with_request))
    await asyncio.sleep(0.3)  # its request has been read
    server.should_exit = True  # as the handler of SIGTERM does
    await asyncio.sleep(0.3)  # the shutdown waits for the first request
    assert not serving.done()
    second = await ask(*fresh)
    print("a request that was read before SIGTERM:", await first)
    print("a request on a connection opened before SIGTERM, 0.3 s after it:", second)
    assert (await first).startswith(b"HTTP/1.1 200")
    assert second == b"", "it is answered now"
    await serving


asyncio.run(main())
PY
"$folder/venv/bin/python" "$folder/shutdown.py"
