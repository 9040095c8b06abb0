"""Routes that only read, answered without FastAPI's machinery (ADR 0012)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from fastapi._compat import ModelField
from fastapi._compat.shared import field_annotation_is_sequence
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.api.response_body import write_json

Values = dict[str, Any]


class ReadFirst:
    """ASGI middleware that answers the valid requests of read routes, before FastAPI's own middleware and its router.

    All other requests pass on, also those of a read route with a parameter that is unknown, repeated or invalid, and
    HEAD.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self._routes = routes  # not complete until the application has started

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["method"] == "GET":
            route, path_values = self._find(scope["path"])
            if route is not None and (values := route.parse(path_values, scope)) is not None:
                scope["route"] = route
                await route.answer(values, scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _find(self, path: str) -> tuple["ReadRoute | None", Values]:
        if (route := self._without_parameters.get(path)) is not None:
            return route, {}
        for route in self._with_parameters:
            if found := route.path_regex.match(path):
                return route, found.groupdict()
        return None, {}

    @cached_property
    def _without_parameters(self) -> dict[str, "ReadRoute"]:
        return {route.path: route for route in self._routes if isinstance(route, ReadRoute) and "{" not in route.path}

    @cached_property
    def _with_parameters(self) -> list["ReadRoute"]:
        return [route for route in self._routes if isinstance(route, ReadRoute) and "{" in route.path]


class ReadRoute(APIRoute):
    """A route whose function takes one dependency, parameters and the request.

    It returns a `ResponseBody`, or a response that is sent as it is. FastAPI makes the API document, and answers
    requests with a parameter that is unknown or invalid. All others need none of its steps, see `ReadFirst`: the
    dependency and the function are called, and the result is written as JSON. The dependency takes the request and the
    response, whose headers it can set.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        [dependency] = self.dependant.dependencies
        assert dependency.call is not None  # noqa: S101 - for types
        assert dependency.name is not None  # noqa: S101 - for types
        self._authorize, self._reader_name = dependency.call, dependency.name
        self.parse = _parser(self.dependant)

    async def answer(self, values: Values, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with these values of its parameters."""
        result, headers = await self._call(values, Request(scope, receive))
        if isinstance(result, Response):
            await result(scope, receive, send)
            return
        body = write_json(result)
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _call(self, values: Values, request: Request) -> tuple[Any, list[tuple[bytes, bytes]]]:
        """Return the function's result, and the headers that the dependency has set."""
        response = LeanResponse()
        if self.dependant.request_param_name is not None:
            values[self.dependant.request_param_name] = request
        values[self._reader_name] = await self._authorize(request, response)
        return await self.endpoint(**values), response.headers.raw


class LeanResponse:
    """What a dependency needs of a response."""

    def __init__(self) -> None:
        self.headers = MutableHeaders(raw=[(b"content-type", b"application/json")])


def _parser(dependant: Dependant) -> Callable[[Values, Scope], Values | None]:
    """Return a function that converts the values in a request's path, query and headers, or returns None.

    That is if any is invalid.
    """
    query = {field.alias: Parameter(field) for field in dependant.query_params}
    path = {field.alias: Parameter(field) for field in dependant.path_params}
    headers = {field.alias: Parameter(field) for field in dependant.header_params}
    defaults = {parameter.name: parameter.default for parameter in (*query.values(), *headers.values())}

    def parse(path_values: Values, scope: Scope) -> Values | None:
        values = defaults.copy()
        try:
            for alias, parameter in path.items():
                values[parameter.name] = parameter.convert(path_values[alias])
            for alias, parameter in headers.items():
                if (sent_value := Headers(scope=scope).get(alias)) is not None:
                    values[parameter.name] = parameter.convert(sent_value)
            if query_string := scope["query_string"]:
                sent = defaultdict[str, list[str]](list)  # in half the time of `QueryParams`
                for alias, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
                    sent[alias].append(value)
                for alias, given in sent.items():
                    parameter = query[alias]
                    if not parameter.is_list and len(given) > 1:
                        return None
                    values[parameter.name] = parameter.convert(given if parameter.is_list else given[0])
        except (KeyError, ValueError):
            return None
        return values

    return parse


class Parameter:
    """A parameter of a route."""

    def __init__(self, field: ModelField) -> None:
        self.name, self.default = field.name, field.default
        self.is_list = field_annotation_is_sequence(field.field_info.annotation)
        self._validator = field._type_adapter.validator  # noqa: SLF001 - FastAPI's own, for the same result

    def convert(self, value: Any) -> Any:
        """Convert a value as FastAPI does. Raises `ValueError` if it is invalid."""
        return self._validator.validate_python(value, from_attributes=True)
