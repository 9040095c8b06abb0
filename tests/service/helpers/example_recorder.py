"""Calls of both APIs as examples for the reference, without what differs from one run to the next."""

import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import httpx2

DAY = datetime(2026, 1, 5, tzinfo=UTC)
"""The day of all examples, on which they begin at nine, a minute apart."""

_SHOWN = (
    "content-type",
    "location",
    "idempotency-replayed",
    "x-position",
    "retry-after",
    "content-disposition",
    "etag",
)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")
_DELIVERY = re.compile(r"/deliveries/\d+")
_SECONDS = re.compile(r",\d+\.\d\b")  # in CSV
_BY_NAME = {
    "next_cursor": "WyI5YzJkN2UxZjRhNmIiLCAyNV0",
    "secret": "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "instance": "9f2c61d0",
    "process": "worker-1",
    "x-position": "0199a7d65b1e7c3a9d512f0f6c1a7e42-1041",
    "webhook-signature": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    "webhook-timestamp": str(int((DAY + timedelta(hours=9)).timestamp())),
    "duration_ms": 84,
    "median": 540.0,
    "p90": 540.0,
    "oldest_due_seconds": 0.8,
    "client_address": "203.0.113.7",
    "address": "203.0.113.7",
}
_COUNTS = ("emails", "tries")  # objects of counts by state, in any order
_NUMBERED = ("replay_of", "delivery_id")


class Person(NamedTuple):
    """A caller: the name of the variable with the token in the examples, and the headers."""

    token: str
    headers: dict[str, str]


@dataclass
class Recorder:
    """Calls operations by their ids, and keeps each first call, and those with a title."""

    services: list[tuple[httpx2.AsyncClient, dict[str, Any]]]
    replaced: dict[str, str] = field(default_factory=dict)  # addresses of this run
    operations: dict[str, list[Any]] = field(default_factory=dict)
    errors: dict[str, Any] = field(default_factory=dict)
    stream: dict[str, dict[str, Any]] = field(default_factory=dict)
    webhooks: dict[str, Any] = field(default_factory=dict)
    _ticks: list[datetime] = field(default_factory=list)

    def tick(self) -> None:
        """Begin the next minute of the examples."""
        self._ticks.append(datetime.now(UTC))

    async def call(
        self,
        operation: str,
        caller: Person,
        body: Any = None,
        *,
        title: str | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        form: Mapping[str, str] | None = None,
        **path: Any,
    ) -> httpx2.Response:
        """Call an operation with values for the placeholders of its path; keep a failed call under its error's code."""
        client, method, template = self._find(operation)
        target = template.format(**{name: quote(str(value), safe="") for name, value in path.items()})
        target += f"?{urlencode(query, doseq=True)}" if query else ""
        sent: dict[str, Any] = {"headers": dict(headers or {})}
        sent |= {"json": body} if body is not None else {"form": dict(form)} if form else {}
        options = {"json": body} if body is not None else {"data": form} if form else {"content": content}
        self.tick()
        response = await client.request(method, target, headers=caller.headers | sent["headers"], **options)
        if content is not None:
            sent["text" if operation == "import_records" else "file"] = content.decode("utf-8", "replace")
        example = {"caller": caller.token, "method": method, "path": target, **sent, "response": _shown(response)}
        if response.status_code >= 400:
            self.errors.setdefault(response.json()["code"], {"title": title, "operation": operation, **example})
        elif title is not None or operation not in self.operations:
            self.operations.setdefault(operation, []).append({"title": title, **example})
        return response

    async def refused(self, code: str, operation: str, caller: Person, body: Any = None, **more: Any) -> None:
        """Call an operation that refuses."""
        response = await self.call(operation, caller, body, **more)
        assert response.json().get("code") == code, response.text

    async def json(self, operation: str, caller: Person, body: Any = None, **more: Any) -> Any:
        """Call an operation that succeeds; return its JSON, None for 204."""
        response = await self.call(operation, caller, body, **more)
        assert response.status_code < 300, response.text
        return response.json() if response.content else None

    def document(self) -> dict[str, Any]:
        """Return all examples, the same at each run."""
        examples = {
            "operations": self.operations,
            "errors": self.errors,
            "stream": self.stream,
            "webhooks": self.webhooks,
        }
        cleaned: dict[str, Any] = _Cleaning(self._ticks, self.replaced).clean(examples)
        return cleaned

    def _find(self, operation: str) -> tuple[httpx2.AsyncClient, str, str]:
        for client, document in self.services:
            for path, methods in document["paths"].items():
                for method, described in methods.items():
                    if described["operationId"] == operation:
                        return client, method.upper(), path
        raise LookupError(operation)


@dataclass
class _Cleaning:
    """Replaces ids, times and secrets, the same ones by the same ones."""

    ticks: list[datetime]
    replaced: dict[str, str]
    ids: dict[str, str] = field(default_factory=dict)

    def clean(self, value: Any, name: str = "") -> Any:
        if value is not None and name.lower() in _BY_NAME:
            return _BY_NAME[name.lower()]
        if isinstance(value, dict):
            value = dict(sorted(value.items())) if name in _COUNTS else value
            deliveries = "event_id" in value and "webhook_id" in value
            return {
                key: 1041 if deliveries and key in ("id", *_NUMBERED) and inner is not None else self.clean(inner, key)
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [self.clean(inner) for inner in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        text = _UUID.sub(lambda match: self._id(match[0]), text)
        text = _TIME.sub(lambda match: self._time(match[0]), text)
        text = text.replace(self.ticks[0].date().isoformat(), DAY.date().isoformat())
        return _SECONDS.sub(",540.0", _DELIVERY.sub("/deliveries/1041", text))

    def _id(self, found: str) -> str:
        return self.ids.setdefault(
            found, f"0199a7d6-5b1e-7c3a-9d51-{0x2F0F6C1A0000 + 0x1D3B * (len(self.ids) + 1):012x}"
        )

    def _time(self, found: str) -> str:
        moment = datetime.fromisoformat(found)
        if moment < self.ticks[0] - timedelta(seconds=1):
            return found  # given by the example itself
        minute = bisect_right(self.ticks, moment) - 1
        hours = round((moment - self.ticks[-1]) / timedelta(hours=1))
        shown = DAY + timedelta(hours=9 + max(hours, 0), minutes=minute)
        return shown.strftime("%Y-%m-%dT%H:%M:07.512000Z")


def _shown(response: httpx2.Response) -> dict[str, Any]:
    """Return what an example shows of a response."""
    headers = {name: response.headers[name] for name in _SHOWN if name in response.headers}
    shown: dict[str, Any] = {"status": response.status_code, "headers": headers}
    media_type = headers.get("content-type", "").partition(";")[0]
    if media_type in ("text/csv", "application/x-ndjson", "message/rfc822"):
        shown["text"] = response.text
    elif media_type.endswith("json") and response.content:
        del headers["content-type"]
        shown["json"] = response.json()
    if (wait := headers.get("retry-after")) and shown["json"]["code"] == "rate-limited":  # it depends on when
        headers["retry-after"] = "41"
        shown["json"]["detail"] = shown["json"]["detail"].replace(f"in {wait} second", "in 41 second")
    return shown


def as_json(examples: Any) -> str:
    """Return examples as they are in the file."""
    return json.dumps(examples, indent=1, ensure_ascii=False) + "\n"
