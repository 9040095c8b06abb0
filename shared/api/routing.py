"""Routers of an API. Their routes reject query parameters that are unknown or repeated."""

from collections.abc import Callable, Coroutine
from copy import copy
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi._compat.shared import field_annotation_is_sequence
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.responses import Response

from shared.api.dependencies import RequireRole
from shared.api.read_route import ReadRoute
from shared.api.write_route import WriteRoute
from shared.observability.logs import ENDLESS_ROUTES
from shared.problems import Invalid, UnknownParameter
from shared.settings import Role

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class SingleParameters:
    """The query parameters of a route that have one value. Any of two values would be ignored without a word."""

    def __init__(self, dependant: Dependant) -> None:
        self._names = {name for name, is_list in _query_parameters(dependant).items() if not is_list}

    def check(self, sent: QueryParams) -> None:
        """Raise `Invalid` if one of them has been sent more than once."""
        if len(sent) == len(sent.multi_items()):
            return
        for name in sorted(self._names & sent.keys()):
            if (count := len(sent.getlist(name))) > 1:
                raise Invalid(f"send this parameter once, not {count} times", ("query", name))


class SingleParametersRoute(APIRoute):
    """A route that rejects repeated query parameters."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that checks the query parameters first."""
        handle, single = super().get_route_handler(), SingleParameters(self.dependant)

        async def check_and_handle(request: Request) -> Response:
            single.check(request.query_params)
            return await handle(request)

        return check_and_handle


class ApiRoute(SingleParametersRoute):
    """A route that rejects unknown and repeated query parameters, and names its callers' roles in the API document."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if roles := _roles(self.dependant):
            self.openapi_extra = {**(self.openapi_extra or {}), "x-roles": sorted(roles)}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that checks the query parameters first."""
        handle = super().get_route_handler()
        known = sorted(_query_parameters(self.dependant))

        async def check_and_handle(request: Request) -> Response:
            unknown = request.query_params.keys() - known
            if unknown:
                raise UnknownParameter(min(unknown), known)
            return await handle(request)

        return check_and_handle


class _ApiReadRoute(ReadRoute, ApiRoute):
    """A `ReadRoute` of the API."""


class _ApiWriteRoute(WriteRoute, ApiRoute):
    """A `WriteRoute` of the API."""


def _query_parameters(dependant: Dependant) -> dict[str, bool]:
    """Return the names of the parameters, and whether each is a list."""
    found: dict[str, bool] = {}
    for field in dependant.query_params:
        kind = field.field_info.annotation
        fields = (
            {each.alias or name: each for name, each in kind.model_fields.items()}
            if isinstance(kind, type) and issubclass(kind, BaseModel)
            else {field.alias: field.field_info}
        )
        found |= {name: field_annotation_is_sequence(each.annotation) for name, each in fields.items()}
    for dependency in dependant.dependencies:
        found |= _query_parameters(dependency)
    return found


def _roles(dependant: Dependant) -> set[Role]:
    own = set(dependant.call.roles) if isinstance(dependant.call, RequireRole) else set()
    return own.union(*map(_roles, dependant.dependencies))


class ApiRouter(APIRouter):
    """A router of an API. Operation ids are the names of the functions, for generated clients."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=ApiRoute, generate_unique_id_function=lambda route: route.name, **options)

    def read(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a GET route that only reads, and so costs less (`ReadRoute`)."""

        def add(endpoint: Endpoint) -> Endpoint:
            self.add_api_route(path, endpoint, methods=["GET"], route_class_override=_ApiReadRoute, **options)
            return endpoint

        return add

    def write(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a POST route that has no transaction of its own, and so costs less (`WriteRoute`)."""

        def add(endpoint: Endpoint) -> Endpoint:
            self.add_api_route(path, endpoint, methods=["POST"], route_class_override=_ApiWriteRoute, **options)
            return endpoint

        return add


def add_routes(app: FastAPI, *routers: APIRouter) -> None:
    """Add the routes of routers, which already have their prefixes and responses.

    FastAPI's `include_router` would match the route of each request twice: once for the router and once within it.
    """
    for router in routers:
        app.router.routes += router.routes


def add_head_routes(app: FastAPI) -> None:
    """Answer HEAD as GET, except for endless responses. The server drops the body.

    These routes come last, so that other requests match before them, and are not in the API document.
    """
    for route in list(app.router.routes):
        if isinstance(route, APIRoute) and route.methods == {"GET"} and route.path not in ENDLESS_ROUTES:
            head = copy(route)
            head.methods, head.include_in_schema = {"HEAD"}, False
            app.router.routes.append(head)
