"""A client of the live stream: it reads server-sent events as a browser does and can resume."""

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
class ReceivedEvent:
    """One event as it was dispatched; `at` is the time on `perf_counter`."""

    event: str
    data: Any
    id: str | None
    at: float = field(default=0, compare=False)


@dataclass
class Reader:
    """What a client has received so far. It would resume after `last_id`."""

    events: list[ReceivedEvent] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    last_id: str | None = None
    retry: int | None = None
    opened: bool = False
    ended: bool = False

    @property
    def logged(self) -> list[ReceivedEvent]:
        """Return the events that come from the log."""
        return [event for event in self.events if event.event not in {"unread", "reset"}]

    @property
    def names(self) -> list[str]:
        return [event.event for event in self.events]

    def data_of(self, name: str) -> list[Any]:
        """Return the data of all events with this name."""
        return [event.data for event in self.events if event.event == name]

    async def read(self, response: httpx2.Response) -> None:
        """Read events until the stream ends or the connection breaks."""
        fields: dict[str, str] = {}
        try:
            async for line in response.aiter_lines():
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
            name, data = fields.get("event", "message"), json.loads(fields["data"])
            event = ReceivedEvent(name, data, fields.get("id"), perf_counter())
            self.events.append(event)
        self.opened = True


@asynccontextmanager
async def reading(
    origin: str, headers: Mapping[str, str], *, after: str | None = None, last_id: str | None = None
) -> AsyncIterator[Reader]:
    """Read a stream in the background while the context is open. It fails unless the response is 200."""
    headers = {**headers, **({} if last_id is None else {"Last-Event-ID": last_id})}
    params = {} if after is None else {"after": after}
    async with (
        httpx2.AsyncClient(base_url=origin, timeout=httpx2.Timeout(30, read=None)) as client,
        client.stream("GET", STREAM, headers=headers, params=params) as response,
    ):
        assert response.status_code == 200, await response.aread()
        reader = Reader(headers=response.headers)
        task = asyncio.create_task(reader.read(response))
        try:
            yield reader
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
