"""The frame of a process: HTTP server, health checks and metrics, shutdown on signals."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

import structlog
import uvicorn
import uvloop
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http_headers import SecureHeaders
from shared.process.ending import arm_shutdown_deadline, leave, leave_soon
from shared.process.stacks import stacks_of_tasks
from shared.process.stopping import cancel_all

GRACE = 20  # seconds for running requests and work after SIGTERM
OPERATIONS_GRACE = 1  # seconds for requests for health and metrics, when the work has ended
LINGER = 0.5  # seconds for the request of a connection that was opened before the socket closed
CANCELLING = 1.5  # seconds for work that is cancelled after that

DATABASE_USABLE = Gauge(
    "chats_database_usable", "1 if this process could use its database at this scrape, else 0 and its gauges are old"
)

Ready = Callable[[], Awaitable[str | None]]
Refresh = Callable[[], Awaitable[None]]
Details = Callable[[], dict[str, str]]

log = structlog.get_logger()


def process_name(kind: str, port: int) -> str:
    """Return a process's name for operators: its kind, host and port."""
    return f"{kind} {socket.gethostname()}:{port}"


def operations_routes(ready: Ready, refresh: Refresh | None = None, details: Details = dict) -> list[Route]:
    """Create the routes `/healthz`, `/readyz` and `/metrics`.

    `ready` returns None, or why the process cannot use its database. `refresh` updates gauges from it before they are
    shown. `details` are added to the response of a ready process, for example that it works without its broker.
    """

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        reason = await ready()
        if reason is None:
            return JSONResponse({"status": "ready", **details()})
        return _not_ready(reason)

    async def metrics(_: Request) -> Response:
        usable = await ready() is None
        if usable and refresh is not None:
            try:
                await refresh()
            except Exception as error:  # noqa: BLE001 - the other metrics must be shown even then
                usable = False
                log.warning("database metrics not refreshed", error=type(error).__name__)
        DATABASE_USABLE.set(usable)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


def _not_ready(reason: str) -> Response:
    return JSONResponse({"status": "not ready", "reason": reason}, status_code=503, headers={"Retry-After": "5"})


def create_server(
    app: ASGIApp,
    host: str,
    port: int,
    on_stop: Callable[[], None] | None = None,
    *,
    trusted_proxies: Sequence[str] = (),
    drain_seconds: float = 0,
    grace: float = GRACE,
) -> uvicorn.Server:
    """Create a process's HTTP server. The application itself logs requests.

    After SIGTERM it keeps serving for `drain_seconds`, while `/readyz` directs new requests elsewhere, and then closes
    its socket. `on_stop` must end endless responses: the server waits for all running ones, until `grace` seconds after
    SIGTERM. `trusted_proxies` are the addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are used; the
    client is the last address that is not one of them.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_not_cut)
    drain = _Drain(app, drain_seconds)
    config = uvicorn.Config(
        drain,
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        backlog=4096,  # ten thousand clients reconnect at once after a restart; the default of 2048 refused some
    )
    return _Server(config, on_stop, drain, grace)


class ResponseCut(Exception):  # noqa: N818 - what happened is no fault
    """A response that has begun and cannot be completed. The server closes its connection; log why before."""


def _is_not_cut(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], ResponseCut)


class _Drain:
    """ASGI middleware: after SIGTERM the process is not ready, and each response closes its connection.

    When the socket closes, no proxy then has an idle connection on which it could send one more request.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self._seconds = seconds
        self._began_at: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        if self._began_at is None or scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] == "/readyz":
            await _not_ready("the process is stopping")(scope, receive, closing)
        else:
            await self.app(scope, receive, closing)

    def begin(self) -> bool:
        """Start draining. Return False if draining has already started or is disabled."""
        if self._began_at is not None or not self._seconds:
            return False
        self._began_at = time.monotonic()
        return True

    @property
    def elapsed(self) -> float:
        """The seconds since draining started."""
        return 0 if self._began_at is None else time.monotonic() - self._began_at

    @property
    def is_finished(self) -> bool:
        """Whether the socket may be closed."""
        return self._began_at is not None and self.elapsed >= self._seconds


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None] | None, drain: _Drain, grace: float) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._drain = drain
        self._grace = grace

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        _run(self.serve(sockets))

    async def on_tick(self, counter: int) -> bool:
        self.should_exit |= self._drain.is_finished
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._drain.elapsed:
            await self._serve_last_connections()
        # Only now, because uvicorn then marks each connection to be closed after its response. Otherwise a proxy could
        # reuse the connection of an endless response for a request that this process refuses.
        if self._on_stop is not None:
            self._on_stop()
        self.config.timeout_graceful_shutdown = max(1, round(self._grace - self._drain.elapsed))
        await super().shutdown(sockets)

    async def _serve_last_connections(self) -> None:
        """Close the socket, and wait for requests on connections that were opened before.

        uvicorn would close connections without a request at once, while the proxy may be about to send one. Each
        response closes its connection, so connections that remain after LINGER seconds are idle.
        """
        listeners = [
            socket.fromfd(listener.fileno(), listener.family, listener.type)
            for server in self.servers
            for listener in server.sockets
        ]
        for server in self.servers:
            server.close()
        # Do not yield to the event loop before this: the kernel resets connections that were not accepted.
        accepted = [connection for listener in listeners for connection in _accept_all(listener)]
        for connection in accepted:
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)
        await asyncio.sleep(LINGER)

    def _make_protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        arm_shutdown_deadline()
        if sig != signal.SIGTERM or not self._drain.begin():
            super().handle_exit(sig, frame)
            self._captured_signals.clear()  # or uvicorn would end by the signal, after all has ended well


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept all pending connections, then close the socket."""
    listener.setblocking(False)
    with listener, contextlib.suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection


@contextlib.asynccontextmanager
async def operations_server(routes: list[Route], host: str, port: int) -> AsyncIterator[None]:
    """Serve health checks and metrics in the event loop of a process's own work."""
    app = Starlette(routes=routes, middleware=[Middleware(SecureHeaders)])
    running = create_server(app, host, port, grace=OPERATIONS_GRACE)
    running.config.lifespan = "off"  # what ends these processes early would be logged as its error
    # The process handles signals itself.
    running.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(running.serve())
    try:
        yield
    finally:
        running.should_exit = True
        await task


def run_until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> NoReturn:
    """Run `work(stop)` in a new event loop. SIGTERM and SIGINT set `stop`, the work ends by itself, then the process.

    Work that has not ended `GRACE` seconds later, for example because a database does not answer, is cancelled: a
    transaction without a commit has no effect, and other processes take it over.
    """

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            stop.set()
            arm_shutdown_deadline()

        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, on_signal)
        working, stopping = asyncio.ensure_future(work(stop)), asyncio.create_task(stop.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({working}, timeout=GRACE)
        if not working.done():
            log.warning("work cancelled, it did not end in time", tasks=stacks_of_tasks(loop))
            await cancel_all([working], CANCELLING)
        elif not working.cancelled():
            working.result()
        log.info("stopped")

    _run(main())


def _run(main: Coroutine[Any, Any, None]) -> NoReturn:
    """Run the work of a process, and end the process."""
    tune_gc()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
        leave_soon(runner.get_loop())
    leave()


def tune_gc() -> None:
    """Make the garbage collector check new objects often and all objects rarely.

    With ten thousand live streams a full collection blocks the process for more than a second and finds almost nothing:
    reference counting frees the objects of requests and streams as they end.
    """
    gc.collect()
    gc.freeze()  # exclude the objects of the start, which live as long as the process
    gc.set_threshold(10_000, 10, 100)
