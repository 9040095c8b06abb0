"""Routes that write with a JSON body and without a transaction, answered without FastAPI's machinery (ADR 0028)."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.api.read_route import LeanResponse, Parameter, Values
from shared.api.response_body import write_json


class WriteFirst:
    """ASGI middleware that answers the valid requests of write routes, before FastAPI's own middleware and its router.

    All other requests pass on, also those of a write route with a query, or with anything that is invalid. It has to be
    inside the middleware that limits bodies.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self._routes = routes  # not complete until the application has started

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and not scope["query_string"]:
            route, path_values = self._find(scope["path"])
            if route is not None:
                request = Request(scope, receive)
                try:
                    body = await request.body()
                except ClientDisconnect:  # `receive` says it again
                    await self.app(scope, receive, send)
                    return
                if (values := route.parse(path_values, request.headers, body)) is not None:
                    scope["route"] = route
                    await route.answer(values, request, send)
                    return
                receive = _receive_again(body, receive)
        await self.app(scope, receive, send)

    def _find(self, path: str) -> tuple["WriteRoute | None", Values]:
        for route in self._write_routes:
            if found := route.path_regex.match(path):
                return route, found.groupdict()
        return None, {}

    @cached_property
    def _write_routes(self) -> list["WriteRoute"]:
        return [route for route in self._routes if isinstance(route, WriteRoute)]


class WriteRoute(APIRoute):
    """A route whose function takes a JSON body, a caller, parameters of path and header, the request and the response.

    The caller is its only dependency, and takes the request only. FastAPI makes the API document, and answers invalid
    requests. All others need none of its steps, see `WriteFirst`: the result is a `ResponseBody`, written as JSON.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        [dependency] = self.dependant.dependencies
        assert dependency.call is not None  # noqa: S101 - for types
        assert dependency.name is not None  # noqa: S101 - for types
        self._authenticate, self._caller_name = dependency.call, dependency.name
        self.parse = _parser(self.dependant)

    async def answer(self, values: Values, request: Request, send: Send) -> None:
        """Answer a request with these values of its body and parameters."""
        response = LeanResponse()
        for name, value in (
            (self.dependant.request_param_name, request),
            (self.dependant.response_param_name, response),
            (self._caller_name, await self._authenticate(request)),
        ):
            if name is not None:
                values[name] = value
        body = write_json(await self.endpoint(**values))
        headers = [*response.headers.raw, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _parser(dependant: Dependant) -> Callable[[Values, Headers, bytes], Values | None]:
    """Return a function that converts a request's path, headers and body, or returns None if anything is invalid."""
    assert not dependant.query_params, "a write route has no query"  # noqa: S101 - as the application starts
    path = {field.alias: Parameter(field) for field in dependant.path_params}
    sent = {field.alias: Parameter(field) for field in dependant.header_params}
    [body_parameter] = map(Parameter, dependant.body_params)

    def parse(path_values: Values, headers: Headers, body: bytes) -> Values | None:
        if headers.get("content-type", "").partition(";")[0] != "application/json":  # others may be valid, too
            return None
        try:
            values = {parameter.name: parameter.convert(path_values[alias]) for alias, parameter in path.items()}
            for alias, parameter in sent.items():
                value = headers.get(alias)
                values[parameter.name] = parameter.default if value is None else parameter.convert(value)
            values[body_parameter.name] = body_parameter.convert(json.loads(body))
        except (ValueError, RecursionError):
            return None
        return values

    return parse


def _receive_again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that begins with a body that was already received."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again
