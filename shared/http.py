"""The frame of an HTTP API: errors, limits, observation, health; the routes are each service's own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from copy import copy
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import problems
from shared.auth import VerifiedTokens
from shared.body_size import BodySize
from shared.database import connection_provider, create_sessions
from shared.docs import add_docs
from shared.headers import SecureHeaders
from shared.keys import ProviderKeys
from shared.observability import ENDLESS_ROUTES, RequestLoggingMiddleware
from shared.problems import HeadersTooLarge, UnknownParameter, UrlTooLong
from shared.processes import operations_routes
from shared.readiness import database_fault, newest_version, wait_for_database
from shared.settings import TokenSettings

MAX_URL_BYTES = 8 * 1024
MAX_HEADER_BYTES = 32 * 1024
BODY_SECONDS = 20  # within which a body has to arrive


class RequestSizeMiddleware:
    """ASGI middleware: a URL that is too long is 414, too many headers are 431, a body is 413, declared or streamed.

    A body that has not arrived after `body_seconds` is 408: anybody could hold a connection and a task by sending it
    one byte at a time, before it is known who they are.

    A body is as large as its text: an escape of JSON or of a form counts as one byte, so that every text that may be
    sent fits, however it is encoded.

    The server takes a head of any size, so that a proxy in front has to bound it as well. FastAPI's own `max_body_size`
    answers in plain text, whatever handlers are installed. The body of `streamed` paths has neither limit: what
    reads it has to ask who it is first, and to bound what it keeps.
    """

    def __init__(self, app: ASGIApp, streamed: Collection[str] = (), body_seconds: float = BODY_SECONDS) -> None:
        self.app = app
        self._body_seconds = body_seconds
        self._streamed = {path.encode() for path in streamed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting what is read of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        _check_head(scope)
        if scope["raw_path"] in self._streamed:  # as it was sent, which is what routes see
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        measure = BodySize(headers.get("content-type", "").lower())
        # More digits than Python would read are enough.
        measure.check_declared(int(declared[:20]) if declared.isdecimal() else 0)
        complete = False
        deadline: float | None = None  # counts from when the body is first asked for

        async def limited() -> Message:
            nonlocal complete, deadline
            if deadline is None:
                deadline = asyncio.get_running_loop().time() + self._body_seconds
            try:  # what comes after the body is the end of the connection, and may take its time
                async with asyncio.timeout_at(None if complete else deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"The body did not arrive within {self._body_seconds:g} seconds.",
                    {"Connection": "close"},  # nobody waits for the rest of it
                ) from None
            complete = not message.get("more_body", False)
            if body := message.get("body"):
                measure.add(body)
            return message

        await self.app(scope, limited, send)


def _check_head(scope: Scope) -> None:
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URL_BYTES:
        raise UrlTooLong(f"The URL is longer than {MAX_URL_BYTES} bytes.")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"The headers are larger than {MAX_HEADER_BYTES} bytes.")


class EncodedPaths:
    """ASGI middleware: routes see the path as it was sent, so that an id may hold an encoded slash."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its undecoded path; path parameters decode themselves."""
        if scope["type"] == "http":
            scope["path"] = scope["raw_path"].decode("ascii", "replace")
        await self.app(scope, receive, send)


class CrossOrigin(CORSMiddleware):
    """ASGI middleware: the store's own pages may call `/api/v1` with a bearer token; no cookie ever counts."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-ID"],
            expose_headers=["Idempotency-Replayed", "Location", "Retry-After", "X-Position", "X-Request-ID"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight, or add the headers to what the API answers."""
        if scope["type"] == "http" and scope["path"].startswith("/api/v1/"):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight; a refusal is a problem as any other."""
        answer = super().preflight_response(request_headers)
        if answer.status_code != HTTPStatus.BAD_REQUEST:
            return answer
        kept = {name: value for name, value in answer.headers.items() if name not in {"content-length", "content-type"}}
        return problems.http_problem(HTTPException(answer.status_code, bytes(answer.body).decode(), kept))


def create_api(
    settings: TokenSettings,
    engine: AsyncEngine,
    service: Path,
    *,
    docs_url: str,
    openapi_url: str,
    beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    streamed: Collection[str] = (),
    explain: problems.Explain | None = None,
    **about: Any,
) -> FastAPI:
    """Build an API without routes, of the service in a folder. It serves at once, also before its database is there.

    Its document and the page that shows it are there unless the settings close them. What is `beside` runs as long
    as it. Paths that are `streamed` take a body of any size. What is refused before a route is found,
    `explain` may answer.
    """
    version = newest_version(service)
    keys = ProviderKeys(settings.auth_jwks_url) if settings.auth_jwks_url else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Only to say what is missing: until it is there, `/readyz` and every route answer 503.
        tasks = [asyncio.create_task(wait_for_database(engine, version))]
        if keys is not None:  # so that the first caller need not wait, and a wrong URL is told of now
            tasks.append(asyncio.create_task(keys.refresh()))
        if beside is not None:
            tasks.append(asyncio.create_task(beside()))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if keys is not None:
            await keys.close()
        await engine.dispose()

    app = FastAPI(
        version="1",
        openapi_url=openapi_url if settings.docs else None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        **about,
    )
    app.state.settings = settings
    app.state.keys = keys
    app.state.verified_tokens = VerifiedTokens()
    app.state.sessions = create_sessions(engine)
    app.state.acquire = connection_provider(engine)
    app.add_middleware(RequestSizeMiddleware, streamed)  # the last one is the outermost
    app.add_middleware(EncodedPaths)
    problems.install(app, explain)
    if settings.store_origins:
        app.add_middleware(CrossOrigin, settings.store_origins)
    app.add_middleware(RequestLoggingMiddleware)
    app.add_middleware(SecureHeaders, settings.public_url)
    if settings.docs:
        add_docs(app, docs_url)
    for route in operations_routes(lambda: database_fault(engine, version)):
        # As FastAPI's own, which tell `RequestLoggingMiddleware` their path; Starlette's do not within FastAPI.
        app.add_api_route(route.path, route.endpoint, methods=["GET", "HEAD"], include_in_schema=False)
    return app


class ApiRoute(APIRoute):
    """A route that refuses query parameters which it does not have."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap what the framework does with a request."""
        handle = super().get_route_handler()
        known = sorted(_query_parameters(self.dependant))

        async def handle_known(request: Request) -> Response:
            unknown = request.query_params.keys() - known
            if unknown:
                raise UnknownParameter(min(unknown), known)
            return await handle(request)

        return handle_known


def _query_parameters(dependant: Dependant) -> set[str]:
    own = {field.alias for field in dependant.query_params}
    return own.union(*map(_query_parameters, dependant.dependencies))


class ApiRouter(APIRouter):
    """A router of an API: its operations have the names of their functions, for whom clients are generated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=ApiRoute, generate_unique_id_function=lambda route: route.name, **options)


def add_routes(app: FastAPI, *routers: APIRouter) -> None:
    """Add the routes of routers, whose prefixes and responses they have already.

    FastAPI's own `include_router` looks for the route of each request twice, once in the router and once more within.
    """
    for router in routers:
        app.router.routes += router.routes


def add_head_routes(app: FastAPI) -> None:
    """Let HEAD be answered as GET is, but where an answer has no end; the server drops what is said.

    By routes of their own behind all others: no other request looks at them, and they are not in the document.
    """
    for route in list(app.router.routes):
        if isinstance(route, APIRoute) and route.methods == {"GET"} and route.path not in ENDLESS_ROUTES:
            head = copy(route)
            head.methods, head.include_in_schema = {"HEAD"}, False
            app.router.routes.append(head)
