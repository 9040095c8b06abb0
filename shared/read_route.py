"""Routes that only read, answered without FastAPI's machinery (ADR 0012)."""

from collections.abc import Callable
from typing import Any

from fastapi._compat import ModelField
from fastapi._compat.shared import field_annotation_is_sequence
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Values = dict[str, Any]


class ReadRoute(APIRoute):
    """A route whose function takes one dependency, parameters and the request, and returns its response's data.

    FastAPI makes the API document, and answers requests with a parameter that is unknown or invalid. All others need
    none of its steps: the dependency and the function are called, and the result is written as JSON. The dependency
    takes the request and the response, whose headers it can set.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        [dependency] = self.dependant.dependencies
        authorize, name, request_name = dependency.call, dependency.name, self.dependant.request_param_name
        assert authorize is not None  # noqa: S101 - for types
        assert name is not None  # noqa: S101 - for types
        assert self.response_field is not None  # noqa: S101 - for types
        serialize, exclude_none = self.response_field.serialize_json, self.response_model_exclude_none
        parse = _parser(self.dependant)
        self.answer_by_fastapi = self.app

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            values = parse(scope)
            if values is None:
                await self.answer_by_fastapi(scope, receive, send)
                return
            request, response = Request(scope, receive), Response(media_type="application/json")
            if request_name is not None:
                values[request_name] = request
            values[name] = await authorize(request, response)
            response.body = serialize(await endpoint(**values), exclude_none=exclude_none)
            response.headers["Content-Length"] = str(len(response.body))
            await response(scope, receive, send)

        self.app = answer


def _parser(dependant: Dependant) -> Callable[[Scope], Values | None]:
    """Return a function that converts the parameters of a request; it returns None if any is invalid or unknown."""
    query = {field.alias: _Parameter(field) for field in dependant.query_params}
    path = {field.alias: _Parameter(field) for field in dependant.path_params}
    defaults = {parameter.name: parameter.default for parameter in query.values()}

    def parse(scope: Scope) -> Values | None:
        values = defaults.copy()
        try:
            for alias, parameter in path.items():
                values[parameter.name] = parameter.convert(scope["path_params"][alias])
            if scope["query_string"]:
                sent = QueryParams(scope["query_string"])
                for alias in sent:
                    parameter = query[alias]
                    values[parameter.name] = parameter.convert(
                        sent.getlist(alias) if parameter.is_list else sent[alias]
                    )
        except (KeyError, ValueError):
            return None
        return values

    return parse


class _Parameter:
    """A parameter of a route."""

    def __init__(self, field: ModelField) -> None:
        self.name, self.default = field.name, field.default
        self.is_list = field_annotation_is_sequence(field.field_info.annotation)
        self._field = field

    def convert(self, value: Any) -> Any:
        """Convert a value as FastAPI does. Raises `ValueError` if it is invalid."""
        converted, errors = self._field.validate(value, {}, loc=())
        if errors:
            raise ValueError(self.name)
        return converted
