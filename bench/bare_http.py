"""The cheapest HTTP response in Python, on the product's own server: one word, from Starlette and from FastAPI.

The floor for `bench/reading.py`: `python -m bench.bare_http PORT`. No database, no token, no log line.
"""

import sys

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from shared.process.running import create_server

WORD = "hello"


async def starlette(_: Request) -> Response:
    """Respond with a word."""
    return PlainTextResponse(WORD)


app = FastAPI(openapi_url=None, routes=[Route("/starlette", starlette)])


@app.get("/fastapi")
async def fastapi() -> dict[str, str]:
    """Respond with a word in JSON."""
    return {"word": WORD}


if __name__ == "__main__":
    create_server(app, "127.0.0.1", int(sys.argv[1])).run()
