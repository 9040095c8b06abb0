"""The FastAPI application that both services build on: errors, limits, logging and health checks, without routes."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar, cast

from fastapi import APIRouter, FastAPI, Request
from fastapi._compat.shared import field_annotation_is_sequence
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import problem_handlers
from shared.aliases import Aliases
from shared.api_docs import add_docs
from shared.app_state import AppState
from shared.auth import VerifiedTokens
from shared.body_size import BodySize
from shared.database import SessionFactory, close_engine, connection_provider, create_sessions
from shared.dependencies import RequireRole
from shared.ending import seconds_left
from shared.headers import SecureHeaders
from shared.jwks import ProviderKeys
from shared.observability import ENDLESS_ROUTES, RequestLoggingMiddleware
from shared.problems import HeadersTooLarge, Invalid, UnknownParameter, UrlTooLong
from shared.processes import operations_routes
from shared.read_route import ReadFirst, ReadRoute
from shared.readiness import database_fault, newest_version, wait_for_database
from shared.repeating import RepeatRequests
from shared.settings import Role, TokenSettings
from shared.stopping import cancel_all
from shared.write_route import WriteFirst, WriteRoute

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

MAX_URL_BYTES = 8 * 1024
MAX_HEADER_BYTES = 32 * 1024
BODY_SECONDS = 20  # for a body to arrive
UPLOAD_SECONDS = 1800.0  # for a body with files
# Headers that are read, with one value. Of two, this code and a proxy might believe different ones.
SINGLE_HEADERS = {
    name.lower().encode(): name
    for name in (
        "Authorization",
        "Content-Disposition",
        "Content-Type",
        "Idempotency-Key",
        "Last-Event-ID",
        "Origin",
        "X-CSRF-Token",
    )
}
# What a compressed body says of itself. Some clients send a character set there, which changes nothing.
COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "br", "zstd"})
CLOSE_SECONDS = 5.0  # for what runs in the background to end


class RequestHead:
    """ASGI middleware that limits a request's head: 414 for its URL, 431 for its headers, 422 for one sent twice.

    Nothing decompresses bodies, so one that says that it is compressed is 422: a file would be stored that way.

    Gives routes the undecoded path, so that an id can contain an encoded slash; types decode path parameters. The
    server accepts headers of any size, so the proxy has to limit them as well.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its undecoded path."""
        if scope["type"] == "http":
            path: bytes = scope["raw_path"]
            if len(path) + len(scope["query_string"]) > MAX_URL_BYTES:
                raise UrlTooLong(f"The URL is longer than {MAX_URL_BYTES} bytes.")
            headers: list[tuple[bytes, bytes]] = scope["headers"]
            if sum([len(name) + len(value) for name, value in headers]) > MAX_HEADER_BYTES:
                raise HeadersTooLarge(f"The headers are larger than {MAX_HEADER_BYTES} bytes.")
            names = [name for name, _ in headers]
            if len(set(names)) < len(names):
                _check_single_headers(names)
            if b"content-encoding" in names:
                _check_not_compressed(",".join(Headers(scope=scope).getlist("content-encoding")))
            scope["path"] = path.decode("ascii", "replace")
        await self.app(scope, receive, send)


def _check_single_headers(names: Sequence[bytes]) -> None:
    """Raise `Invalid` if a header that has one value was sent more than once."""
    for name, shown in SINGLE_HEADERS.items():
        if (count := names.count(name)) > 1:
            raise Invalid(f"send this header once, not {count} times", ("header", shown))


def _check_not_compressed(encoding: str) -> None:
    """Raise `Invalid` if a `Content-Encoding` names a compression."""
    if COMPRESSIONS & {part.strip() for part in encoding.lower().split(",")}:
        raise Invalid("send the body uncompressed, without this header", ("header", "Content-Encoding"))


@dataclass(frozen=True, slots=True)
class FileForms:
    """The paths of forms that may contain files, and how large such a form may be."""

    paths: re.Pattern[bytes]
    max_bytes: int

    def has(self, path: bytes, content_type: str) -> bool:
        """Return whether a request may be such a form."""
        return content_type.startswith("multipart/form-data") and self.paths.fullmatch(path) is not None


class RequestSizeMiddleware:
    """ASGI middleware that limits a request's body, with 413.

    A body that has not arrived after `body_seconds` is answered with 408. Otherwise clients that send one byte at a
    time could hold connections before they are authenticated.

    The size of a body is that of its text: an escape of JSON or of a form counts as one byte, so that every valid text
    fits, however it is encoded.

    Forms at the paths of `file_forms` may be larger, because they contain files. Their routes have to authenticate the
    caller before they read, and to limit the text.

    FastAPI's `max_body_size` is not used because it always answers in plain text. The bodies of `streamed` paths have
    no limit: their routes have to authenticate the caller before they read, and to limit what they keep in memory.
    """

    def __init__(
        self,
        app: ASGIApp,
        streamed: Collection[str] = (),
        body_seconds: float = BODY_SECONDS,
        file_forms: "FileForms | None" = None,
    ) -> None:
        self.app = app
        self._file_forms = file_forms
        self._body_seconds = body_seconds
        self._streamed = {path.encode() for path in streamed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting the bytes that are read of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["raw_path"] in self._streamed:  # undecoded, as routes see it
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        content_type, seconds = headers.get("content-type", "").lower(), self._body_seconds
        measure = BodySize(content_type)
        if self._file_forms is not None and self._file_forms.has(scope["raw_path"], content_type):
            measure, seconds = BodySize(content_type, self._file_forms.max_bytes), UPLOAD_SECONDS
        # Python limits the digits that int() accepts.
        measure.check_declared(int(declared[:20]) if declared.isdecimal() else 0)
        complete = False
        deadline: float | None = None  # starts at the first read of the body

        async def receive_limited() -> Message:
            nonlocal complete, deadline
            if deadline is None:
                deadline = asyncio.get_running_loop().time() + seconds
            try:  # no deadline after the body: the next message is the disconnect
                async with asyncio.timeout_at(None if complete else deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"The body did not arrive within {seconds:g} seconds.",
                    {"Connection": "close"},  # the rest of the body is not read
                ) from None
            complete = not message.get("more_body", False)
            if body := message.get("body"):
                measure.add(body)
            return message

        await self.app(scope, receive_limited, send)


class CrossOrigin(CORSMiddleware):
    """CORS for `/api/v1`: the store's pages can call it with a bearer token, never with a cookie."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Disposition",
                "Content-Type",
                "Idempotency-Key",
                "Last-Event-ID",
                "X-Request-ID",
            ],
            expose_headers=[
                "Content-Disposition",
                "Idempotency-Replayed",
                "Location",
                "Retry-After",
                "X-Position",
                "X-Request-ID",
            ],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight request, or add the CORS headers to the API's response."""
        if scope["type"] == "http" and scope["path"].startswith("/api/v1/"):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight request, with problem+json if it is rejected."""
        response = super().preflight_response(request_headers)
        if response.status_code != HTTPStatus.BAD_REQUEST:
            return response
        kept = {
            name: value for name, value in response.headers.items() if name not in {"content-length", "content-type"}
        }
        return problem_handlers.http_problem(HTTPException(response.status_code, bytes(response.body).decode(), kept))


def create_api(
    settings: TokenSettings,
    engine: AsyncEngine,
    service: Path,
    *,
    docs_url: str,
    openapi_url: str,
    background: Callable[[], Coroutine[Any, Any, None]] | None = None,
    streamed: Collection[str] = (),
    file_forms: FileForms | None = None,
    render_error: problem_handlers.RenderError | None = None,
    settle_mergers: Callable[[SessionFactory, str], Coroutine[Any, Any, Any]] | None = None,
    **about: Any,
) -> FastAPI:
    """Build the application of the service in a folder, without routes. It starts before its database is reachable.

    The settings can turn off the API document and its page. `background` runs as long as the application. `streamed`
    paths accept a body of any size, `file_forms` forms with files. `render_error` can answer errors that are raised
    outside routes. `settle_mergers` completes mergers of users before callers under a merged id go on.
    """
    version = newest_version(service)
    keys = ProviderKeys(settings.auth_jwks_url) if settings.auth_jwks_url else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # This only logs what is missing. Until the database is ready, `/readyz` and every route answer 503.
        tasks = [asyncio.create_task(wait_for_database(engine, version))]
        if keys is not None:  # the first caller need not wait, and a wrong URL is logged at startup
            tasks.append(asyncio.create_task(keys.refresh()))
        if background is not None:
            tasks.append(asyncio.create_task(background()))
        yield
        await cancel_all(tasks, seconds_left(CLOSE_SECONDS))
        if keys is not None:
            await keys.close()
        await close_engine(engine)

    app = FastAPI(
        version="1",
        openapi_url=openapi_url if settings.docs else None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # looking for a provider costs every request
        **about,
    )
    state = cast("AppState", app.state)
    state.settings = settings
    state.keys = keys
    state.verified_tokens = VerifiedTokens()
    state.verified_session_tokens = VerifiedTokens()
    state.aliases = Aliases()
    state.sessions = create_sessions(engine)
    state.acquire = connection_provider(engine)
    app.add_middleware(WriteFirst, app.router.routes)  # the middleware added last is the outermost
    app.add_middleware(RequestSizeMiddleware, streamed, file_forms=file_forms)
    app.add_middleware(ReadFirst, app.router.routes)
    app.add_middleware(RepeatRequests, state, settle_mergers)
    app.add_middleware(RequestHead)
    problem_handlers.install(app, render_error)
    if settings.store_origins:
        app.add_middleware(CrossOrigin, settings.store_origins)
    app.add_middleware(RequestLoggingMiddleware)
    app.add_middleware(SecureHeaders, settings.public_url)
    if settings.docs:
        add_docs(app, docs_url)
    for route in operations_routes(lambda: database_fault(engine, version)):
        # As FastAPI routes, which give `RequestLoggingMiddleware` their path. Starlette's routes do not.
        app.add_api_route(route.path, route.endpoint, methods=["GET", "HEAD"], include_in_schema=False)
    return app


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
