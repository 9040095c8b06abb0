"""How a page is rendered and sent."""

from collections.abc import AsyncIterator
from typing import Annotated

import httpx2
from fastapi import Depends, FastAPI
from jinja2 import Environment

from services.conversations.web.rendering import Page


async def test_a_page_is_rendered_when_its_transaction_is_over() -> None:
    happened: list[str] = []
    app = FastAPI()

    async def transaction() -> AsyncIterator[None]:
        yield
        happened.append("committed")

    def tell() -> str:
        happened.append("rendered")
        return "ü"

    @app.get("/", response_model=None)
    async def show(_: Annotated[None, Depends(transaction, scope="function")]) -> Page:
        return Page(Environment(autoescape=True).from_string("{{ tell() }}"), {"tell": tell}, 422, {"X-Position": "7"})

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/")
    assert happened == ["committed", "rendered"]
    assert (answer.status_code, answer.text, answer.headers["x-position"]) == (422, "ü", "7")
    assert answer.headers["content-length"] == "2"
