"""How a process runs: its HTTP server, its health and metrics, its end on a signal."""

import asyncio
import contextlib
import gc
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from types import FrameType
from typing import Any

import structlog
import uvicorn
import uvloop
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.headers import SecureHeaders

GRACE = 20  # seconds that running requests and work have after SIGTERM
LINGER = 0.5  # seconds in which a connection opened before the socket closed sends its request
LAST_MOMENT = 23  # seconds after SIGTERM at which a process ends, whatever it still waits for

Ready = Callable[[], Awaitable[str | None]]
Refresh = Callable[[], Awaitable[None]]
About = Callable[[], dict[str, str]]

log = structlog.get_logger()


def process_name(kind: str, port: int) -> str:
    """Name a process so that an operator finds it: by its host and the port of its health."""
    return f"{kind} {socket.gethostname()}:{port}"


def operations_routes(ready: Ready, refresh: Refresh | None = None, about: About = dict) -> list[Route]:
    """Make `/healthz`, `/readyz` and `/metrics`.

    `ready` returns None or why not; `refresh` sets gauges that are read from the database, before they are shown;
    `about` returns what a ready process has to say besides, such as that it works without its broker.
    """

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        reason = await ready()
        if reason is None:
            return JSONResponse({"status": "ready", **about()})
        return _not_ready(reason)

    async def metrics(_: Request) -> Response:
        if refresh is not None and await ready() is None:
            try:
                await refresh()
            except Exception as error:  # noqa: BLE001 - what else there is to see must be seen, now more than ever
                log.warning("gauges of the database not refreshed", error=type(error).__name__)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


def _not_ready(reason: str) -> Response:
    return JSONResponse({"status": "not ready", "reason": reason}, status_code=503, headers={"Retry-After": "5"})


def server(
    app: ASGIApp,
    host: str,
    port: int,
    on_stop: Callable[[], None] | None = None,
    *,
    trusted_proxies: Sequence[str] = (),
    drain_seconds: float = 0,
) -> uvicorn.Server:
    """Make the HTTP server of a process. Access is logged by the application itself.

    After SIGTERM it serves for `drain_seconds` more, while `/readyz` sends new requests elsewhere; then it closes its
    socket. `on_stop` ends answers that have no end of their own: the server waits for all that are under way. What
    `trusted_proxies`, addresses or networks, tell of a client and its scheme is believed, from the last one they do
    not contain.
    """
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
        backlog=4096,  # all come back at once after a restart: the default, 2048, refused some of ten thousand
        timeout_graceful_shutdown=GRACE,
    )
    return _Server(config, on_stop, drain)


class _Drain:
    """ASGI middleware: from SIGTERM on the process is not ready, and each response closes its connection.

    So when the socket closes, no proxy has an idle connection on which it could send one more request.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self._seconds = seconds
        self._began_at: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

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
        """Begin to drain; return False when it has begun before, or there is no time for it."""
        if self._began_at is not None or not self._seconds:
            return False
        self._began_at = time.monotonic()
        return True

    @property
    def passed(self) -> float:
        """The seconds since it began."""
        return 0 if self._began_at is None else time.monotonic() - self._began_at

    @property
    def is_over(self) -> bool:
        """Whether the socket may close."""
        return self._began_at is not None and self.passed >= self._seconds


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None] | None, drain: _Drain) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._drain = drain

    async def on_tick(self, counter: int) -> bool:
        self.should_exit |= self._drain.is_over
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_stop is not None:
            self._on_stop()
        if self._drain.passed:
            await self._serve_last_connections()
        self.config.timeout_graceful_shutdown = max(1, round(GRACE - self._drain.passed))
        await super().shutdown(sockets)

    async def _serve_last_connections(self) -> None:
        """Close the socket, and wait for the requests of the connections that were opened before.

        uvicorn closes each connection without a request at once, and the proxy may be about to send one there. Each
        response closes its connection, so what is left after LINGER seconds is idle.
        """
        listening = [
            socket.fromfd(each.fileno(), each.family, each.type) for server in self.servers for each in server.sockets
        ]
        for server in self.servers:
            server.close()
        # Without a turn of the loop in between: the kernel resets the connections that nobody has accepted.
        accepted = [connection for each in listening for connection in _accept_all(each)]
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


def _accept_all(listening: socket.socket) -> Iterator[socket.socket]:
    """Accept every connection that waits, then close the socket."""
    listening.setblocking(False)
    with listening, contextlib.suppress(BlockingIOError):
        while True:
            connection, _ = listening.accept()
            connection.setblocking(False)
            yield connection


@contextlib.asynccontextmanager
async def operations_server(routes: list[Route], host: str, port: int) -> AsyncIterator[None]:
    """Serve health and metrics beside a process's own work, in the same event loop."""
    running = server(Starlette(routes=routes, middleware=[Middleware(SecureHeaders)]), host, port)
    # The process's own signal handling is the one that counts.
    running.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(running.serve())
    try:
        yield
    finally:
        running.should_exit = True
        await task


def run_until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `work(stop)` in a new event loop; SIGTERM and SIGINT set `stop`, and the work comes to its own end."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def asked() -> None:
            stop.set()
            arm_shutdown_deadline()

        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, asked)
        await work(stop)
        log.info("stopped")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def tune_gc() -> None:
    """Let the collector of cycles look often at what is new, and seldom at all that lives.

    With ten thousand live streams a look at everything stops the process for more than a second, and finds next to
    nothing: what a request or a stream leaves behind is freed as it ends.
    """
    gc.collect()
    gc.freeze()  # what was made to start with stays as long as the process
    gc.set_threshold(10_000, 10, 100)


def arm_shutdown_deadline() -> None:
    """Let the kernel end this process by SIGALRM at the last moment, unless it has come to its own end by then.

    A database or a broker that answers no more can hold up anything; what dies here is made up for elsewhere. The
    first call counts: to be asked again gains no time.
    """
    if not any(signal.getitimer(signal.ITIMER_REAL)):
        signal.alarm(LAST_MOMENT)


async def run_until_stopped(stop: asyncio.Event, waiting: Coroutine[Any, Any, None]) -> None:
    """Wait for something, but not longer than until the process is asked to stop."""
    tasks = {asyncio.create_task(waiting), asyncio.create_task(stop.wait())}
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    await asyncio.gather(*done)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait, but not longer than until the process is asked to stop."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
