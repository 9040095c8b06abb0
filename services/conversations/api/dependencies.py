"""Dependencies of routes: the caller and role, the idempotency key and common parameters.

A request with the session's cookie is checked against the session's row each time; its user was provisioned when the
session began. Reads do not extend a session, because the pages' scripts poll.
"""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import unquote
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, BeforeValidator

from services.conversations.api.schemas.responses import Viewer
from services.conversations.api.state import api_state
from services.conversations.event_log.position import encode_position
from services.conversations.identity.access import AuthorizedReader, authorize_caller
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.rules import Side, Status, Via
from shared.api.dependencies import DbSession, RequireRole, require
from shared.auth.cookies import SAFE_METHODS
from shared.auth.principal import Principal
from shared.paging import MAX_NUMBER
from shared.people import StoreId
from shared.settings import Role


class _Readers(RequireRole):
    """A dependency that authenticates callers of some roles, and returns the connection that they read with.

    The statement that reads for a caller also checks the caller's row.
    """

    async def __call__(self, request: Request, response: Response) -> AuthorizedReader:  # type: ignore[override] # wraps the principal
        principal = await super().__call__(request)
        state = api_state(request)
        # Clients can continue from X-Position in the stream.
        return AuthorizedReader(
            principal, state.acquire, state.sessions, partial(response.headers.__setitem__, "X-Position")
        )


def _caller(*roles: Role, extends_session: bool = True) -> Callable[..., Coroutine[Any, Any, Principal]]:
    async def authorize(
        request: Request,
        response: Response,
        principal: Annotated[Principal, Depends(require(*roles))],
        session: DbSession,
    ) -> Principal:
        position = await authorize_caller(
            session, principal, used=extends_session and request.method not in SAFE_METHODS
        )
        if request.method in SAFE_METHODS:  # clients can continue from there in the stream
            response.headers["X-Position"] = encode_position(*position)
        return principal

    return authorize


Customer = Annotated[Principal, Depends(_caller(Role.CUSTOMER), scope="function")]
Admin = Annotated[Principal, Depends(_caller(Role.ADMIN), scope="function")]
CustomerReader = Annotated[AuthorizedReader, Depends(_Readers(Role.CUSTOMER))]
AdminReader = Annotated[AuthorizedReader, Depends(_Readers(Role.ADMIN))]
AnyReader = Annotated[AuthorizedReader, Depends(_Readers(Role.CUSTOMER, Role.ADMIN))]
# For requests that an open page repeats on its own.
WatchingAdmin = Annotated[Principal, Depends(_caller(Role.ADMIN, extends_session=False), scope="function")]

# Authenticated by the token or cookie alone; `api.posting` checks the database.
TokenCustomer = Annotated[Principal, Depends(require(Role.CUSTOMER))]
TokenAdmin = Annotated[Principal, Depends(require(Role.ADMIN))]


def viewer_of(request: Request, side: Side) -> Viewer:
    """Return the viewer for a side."""
    return Viewer(side=side, store_name=api_state(request).settings.store_name)


def via_of(caller: Principal) -> Via:
    """Return how a caller's message arrives: the pages' scripts call with the session's cookie, all others by token."""
    return Via.API if caller.session_id is None else Via.WEB


IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="Makes retries safe: a request with the same key, path and fields returns the first result.",
    ),
]

PathId = Annotated[StoreId, BeforeValidator(unquote), Path(description="The store's id, percent-encoded.")]


def key_of(key: str | None, operation: str, body: BaseModel) -> IdempotencyKey | None:
    """Return the idempotency key of a request: a repeat has the same fields, whether or not it names the defaults."""
    return IdempotencyKey.of(key, operation, body.model_dump(mode="json", exclude_defaults=True))


ConversationId = Annotated[UUID, Path(description="The conversation's id.")]
Statuses = Annotated[list[Status] | None, Query(description="Only conversations with this status. Can be repeated.")]
OrderId = Annotated[StoreId | None, Query(description="Only conversations about the order with this id.")]
Order = Annotated[Literal["asc", "desc"], Query(description="`asc`: oldest message first. `desc`: newest first.")]
AfterNumber = Annotated[
    int | None, Query(ge=0, le=MAX_NUMBER, description="Only messages with a number above this one.")
]

Search = Annotated[
    str | None,
    Query(
        description="Words to find, up to 8 and 200 characters, without regard to case and accents. The last one may be"
        ' the beginning of a word. `"exact phrase"` and `-without` work. Each result has a `match`.'
    ),
]

Peek = Annotated[bool, Query(description="Return the conversation without marking it as read.")]


def is_prefetch(purpose: str | None) -> bool:
    """Return whether a browser's `Sec-Purpose` says that it prefetches the response, so that nobody has read it."""
    return purpose is not None and "prefetch" in purpose


async def _leaves_unread(request: Request) -> bool:
    """Return whether nobody reads the response: it is prefetched, or a HEAD request."""
    return is_prefetch(request.headers.get("Sec-Purpose")) or request.method == "HEAD"


Prefetch = Annotated[bool, Depends(_leaves_unread)]


def mark_replay(response: Response, *, replayed: bool) -> None:
    """Mark a response that repeats an earlier result."""
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
