"""`/metrics` says when the database cannot be used, so that old values of its gauges are not taken for new ones."""

import httpx2
import pytest
from starlette.applications import Starlette

from shared.process.running import operations_routes


@pytest.mark.parametrize(
    ("fault", "is_refreshed", "usable"), [(None, True, 1), (None, False, 0), ("the database does not answer", True, 0)]
)
async def test_metrics_say_whether_they_are_fresh(fault: str | None, is_refreshed: bool, usable: int) -> None:
    async def ready() -> str | None:
        return fault

    async def refresh() -> None:
        if not is_refreshed:
            raise TimeoutError

    transport = httpx2.ASGITransport(Starlette(routes=operations_routes(ready, refresh)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://process.test") as client:
        assert f"chats_database_usable {usable}.0\n" in (await client.get("/metrics")).text
