"""A client of the live stream: Server-Sent Events as a browser reads them, and what it takes to resume."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import httpx2

STREAM = "/api/v1/stream"


@dataclass(frozen=True)
class Told:
    """One event, as it was dispatched; `at` is when, by `perf_counter`."""

    event: str
    data: Any
    id: str | None
    at: float = field(default=0, compare=False)


@dataclass
class Reader:
    """What a client has heard so far. `last_id` is what it would resume from."""

    told: list[Told] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    last_id: str | None = None
    retry: int | None = None
    opened: bool = False
    ended: bool = False

    @property
    def logged(self) -> list[Told]:
        """What is in the log."""
        return [told for told in self.told if told.event not in {"unread", "reset"}]

    @property
    def names(self) -> list[str]:
        return [told.event for told in self.told]

    def of(self, event: str) -> list[Any]:
        """Return the data of all events of a kind."""
        return [told.data for told in self.told if told.event == event]

    async def read(self, answer: httpx2.Response) -> None:
        """Hear everything, until the stream ends or the connection breaks."""
        fields: dict[str, str] = {}
        try:
            async for line in answer.aiter_lines():
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                    continue
                self._dispatch(fields)
                fields = {}
        except httpx2.TransportError:
            pass
        finally:
            self.ended = True

    def _dispatch(self, fields: dict[str, str]) -> None:
        self.retry = int(fields.get("retry", self.retry or 0)) or None
        self.last_id = fields.get("id", self.last_id)
        if "data" in fields:
            told = Told(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"), perf_counter())
            self.told.append(told)
        self.opened = True


@asynccontextmanager
async def reading(
    origin: str, headers: Mapping[str, str], *, after: str | None = None, last_id: str | None = None
) -> AsyncIterator[Reader]:
    """Read a stream meanwhile. It must open: anything but 200 fails."""
    headers = {**headers, **({} if last_id is None else {"Last-Event-ID": last_id})}
    params = {} if after is None else {"after": after}
    async with (
        httpx2.AsyncClient(base_url=origin, timeout=httpx2.Timeout(10, read=None)) as client,
        client.stream("GET", STREAM, headers=headers, params=params) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        reader = Reader(headers=answer.headers)
        task = asyncio.create_task(reader.read(answer))
        try:
            yield reader
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
