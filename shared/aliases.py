"""Callers under an id that the store has merged into another one: they act as the person whom it belongs to now.

The code that authorizes a caller reads their row, and raises `CallerMerged` for such an id. `ActAsPerson` then handles
the request again, as the person. A process remembers the id for a minute, so that further requests cost nothing more.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.principal import CallerMerged, Principal
from shared.problems import Unavailable

if TYPE_CHECKING:  # this module uses Aliases
    from shared.app_state import AppState
    from shared.database import SessionFactory

    Settle = Callable[[SessionFactory, str], Awaitable[Any]]

REMEMBERED: Final = 60.0  # seconds; a database that was restored may not have the merger
MAX_REPLAYED: Final = 1024 * 1024  # bytes of a body that can be read a second time
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Aliases:
    """The merged ids that this process has met, and whose they are."""

    def __init__(self, size: int = 10_000) -> None:
        self._entries: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._size = size

    def learn(self, merged: CallerMerged) -> None:
        """Remember whose a merged id is."""
        self._entries.pop(merged.person_id, None)  # so that no circle can form
        self._entries.pop(merged.old_id, None)  # the newest are last
        self._entries[merged.old_id] = (time.monotonic() + REMEMBERED, merged.person_id)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def resolve(self, principal: Principal) -> Principal:
        """Return the caller as the person they are.

        What a token says of an old id's name and address is not the person's.
        """
        person_id, now = principal.id, time.monotonic()
        while (entry := self._entries.get(person_id)) is not None and now < entry[0]:
            person_id = entry[1]
        if person_id == principal.id:
            return principal
        return replace(principal, id=person_id, email=None, name=None, locale=None, zoneinfo=None)


class ActAsPerson:
    """ASGI middleware that handles a request again if its caller's id turns out to be merged.

    Before that, `settle` completes the mergers of that person, so that the caller misses nothing.
    """

    def __init__(self, app: ASGIApp, state: "AppState", settle: "Settle | None" = None) -> None:
        self.app = app
        self._state = state
        self._settle = settle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request. Raises `Unavailable` if its body was too large to be read again."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = None if scope["method"] in _SAFE else _Body(receive)
        try:
            await self.app(scope, receive if body is None else body.receive, send)
        except CallerMerged as merged:
            if self._settle is not None:
                await self._settle(self._state.sessions, merged.person_id)
            self._state.aliases.learn(merged)
        else:
            return
        if body is not None:
            receive = body.replay()
        await self(scope, receive, send)  # that person may have been merged meanwhile


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
            raise Unavailable("This user has just been merged into another one. Send the request again.")
        read = iter(self._read)

        async def receive() -> Message:
            return next(read, None) or await self._receive()

        return receive
