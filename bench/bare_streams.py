"""The simplest way to fan out events: each stream has a queue, and a post puts the same bytes into all of them.

The yardstick of `bench/streams.py`. No database, no token, no ordering, no resuming.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

ALL = "all"

queues: defaultdict[str, set[asyncio.Queue[bytes]]] = defaultdict(set)


async def stream(request: Request) -> Response:
    """Open a stream of what is posted to the recipient `of`, or of everything."""
    recipient, queue = request.query_params["of"], asyncio.Queue[bytes]()

    async def events() -> AsyncIterator[bytes]:
        queues[recipient].add(queue)
        try:
            yield b"id: 0\n\n"
            while True:
                yield await queue.get()
        finally:
            queues[recipient].remove(queue)

    return StreamingResponse(events(), media_type="text/event-stream")


async def post(request: Request) -> Response:
    """Send the body to one recipient's streams and to those of everything."""
    body = await request.body()
    for queue in (*queues[request.query_params["to"]], *queues[ALL]):
        queue.put_nowait(body)
    return PlainTextResponse("", status_code=201)


app = Starlette(routes=[Route("/stream", stream), Route("/post", post, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_config=None)
