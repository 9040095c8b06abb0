"""The FastAPI application that both services build on: middleware, state and health checks, without routes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.api import problem_handlers
from shared.api.app_state import AppState
from shared.api.docs import add_docs
from shared.api.read_route import ReadFirst
from shared.api.repeating import RepeatRequests
from shared.api.request_limits import FileForms, RequestHead, RequestSizeMiddleware
from shared.api.write_route import WriteFirst
from shared.auth.aliases import Aliases
from shared.auth.jwks import ProviderKeys
from shared.auth.tokens import VerifiedTokens
from shared.database.engine import close_engine
from shared.database.readiness import database_fault, newest_version, wait_for_database
from shared.database.transactions import SessionFactory, connection_provider, create_sessions
from shared.http_headers import SecureHeaders
from shared.observability.logs import RequestLoggingMiddleware
from shared.process.ending import seconds_left
from shared.process.running import operations_routes
from shared.process.stopping import cancel_all
from shared.settings import TokenSettings

CLOSE_SECONDS = 5.0  # for what runs in the background to end


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
