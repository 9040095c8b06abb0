"""Handle a request again: its caller's id turned out to be merged, or it was rolled back in a deadlock."""

import os
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import cached_property
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.api.app_state import AppState
from shared.auth.principal import CallerMerged
from shared.database.transactions import ATTEMPTS, RolledBack, SessionFactory
from shared.problems import Unavailable

Settle = Callable[[SessionFactory, str], Awaitable[Any]]

MAX_REPLAYED: Final = 1024 * 1024  # bytes of a body that can be read a second time
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_BUSY = "This data is being changed by other requests. Send the request again."


class _Identity:
    """A random id, made when it is first asked for: most requests need none."""

    @cached_property
    def value(self) -> str:
        return os.urandom(12).hex()


_request: ContextVar[_Identity] = ContextVar("request")


def request_identity() -> str:
    """Return a random id of the present request, the same when it is handled again; outside of one, a new id."""
    return (_request.get(None) or _Identity()).value


class RepeatRequests:
    """ASGI middleware that handles a request again if its caller's id turns out to be merged, or in a deadlock.

    In the first case `settle` completes the mergers of that person, so that the caller misses nothing. In the second
    the transaction that spans the request was rolled back because of others.
    """

    def __init__(self, app: ASGIApp, state: AppState, settle: Settle | None = None) -> None:
        self.app = app
        self._state = state
        self._settle = settle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request. Raises `Unavailable` for a body too large to be read again, or after many deadlocks."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        token = _request.set(_Identity())
        try:
            await self._handle(scope, receive, send)
        finally:
            _request.reset(token)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        rollbacks = 0
        while True:
            body = None if scope["method"] in _SAFE else _Body(receive)
            try:
                await self.app(scope, receive if body is None else body.receive, send)
            except CallerMerged as merged:  # perhaps again: that person may have been merged meanwhile
                if self._settle is not None:
                    await self._settle(self._state.sessions, merged.person_id)
                self._state.aliases.learn(merged)
            except RolledBack as error:
                rollbacks += 1
                if rollbacks == ATTEMPTS:
                    raise Unavailable(_BUSY) from error
            else:
                return
            if body is not None:
                receive = body.replay()


class _Body:
    """Keeps what is read of a request's body, so that it can be read again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read: list[Message] = []
        self._size = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > MAX_REPLAYED:
            self._read.clear()
        else:
            self._read.append(message)
        return message

    def replay(self) -> Receive:
        if self._size > MAX_REPLAYED:
            raise Unavailable(_BUSY)
        read = iter(self._read)

        async def receive() -> Message:
            return next(read, None) or await self._receive()

        return receive
