"""What routes ask for: who calls, in which role, with which idempotency key.

A browser that comes by its cookie is let in by its session's row, at each call; its user has been admitted when the
session began. Its reads are those of a script that looks for news, and keep no session alive.
"""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import unquote
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Request, Response
from pydantic import BeforeValidator

from services.conversations.api.response_schemas import Viewer
from services.conversations.event_log.position import encode_position
from services.conversations.identity.access import AuthorizedReader, authorize_caller
from services.conversations.identity.sessions import check_session
from services.conversations.rules import Side, Status
from shared.auth import Callers, Principal, Role, require
from shared.cookies import SAFE_METHODS
from shared.database import DbSession
from shared.paging import MAX_NUMBER
from shared.people import StoreId


class _Readers(Callers):
    """A dependency that lets in callers of some roles as `Callers` does, and is what they read with.

    Their rows are looked at by the statement that reads for them.
    """

    async def __call__(self, request: Request, response: Response) -> AuthorizedReader:  # type: ignore[override] # more than who
        principal = await super().__call__(request)
        state = request.app.state
        # Whoever reads can go on from there in the stream.
        return AuthorizedReader(
            principal, state.acquire, state.sessions, partial(response.headers.__setitem__, "X-Position")
        )


def _caller(*roles: Role, by_hand: bool = True) -> Callable[..., Coroutine[Any, Any, Principal]]:
    async def admitted(
        request: Request,
        response: Response,
        principal: Annotated[Principal, Depends(require(*roles))],
        session: DbSession,
    ) -> Principal:
        position = await authorize_caller(session, principal, used=by_hand and request.method not in SAFE_METHODS)
        if request.method in SAFE_METHODS:  # whoever reads can go on from there in the stream
            response.headers["X-Position"] = encode_position(*position)
        return principal

    return admitted


def _sender(role: Role) -> Callable[..., Coroutine[Any, Any, Principal]]:
    async def admitted(
        request: Request, principal: Annotated[Principal, Depends(require(role))], session: DbSession
    ) -> Principal:
        if principal.session_id is None:
            await request.app.state.known_users.ensure(principal, request.app.state.sessions)
        else:  # a session can end at any moment, and then nothing is posted any more
            await check_session(session, principal)
        return principal

    return admitted


Customer = Annotated[Principal, Depends(_caller(Role.CUSTOMER), scope="function")]
Admin = Annotated[Principal, Depends(_caller(Role.ADMIN), scope="function")]
CustomerReader = Annotated[AuthorizedReader, Depends(_Readers(Role.CUSTOMER))]
AdminReader = Annotated[AuthorizedReader, Depends(_Readers(Role.ADMIN))]
AnyReader = Annotated[AuthorizedReader, Depends(_Readers(Role.CUSTOMER, Role.ADMIN))]
# What an open page says by itself, again and again.
WatchingAdmin = Annotated[Principal, Depends(_caller(Role.ADMIN, by_hand=False), scope="function")]

# Posting is one statement that looks at the sender itself; this only makes sure that there is one.
PostingAdmin = Annotated[Principal, Depends(_sender(Role.ADMIN), scope="function")]
# Whose claim to be one was not compared with the database yet.
TokenCustomer = Annotated[Principal, Depends(require(Role.CUSTOMER))]
TokenAdmin = Annotated[Principal, Depends(require(Role.ADMIN))]


def viewer_of(request: Request, side: Side) -> Viewer:
    """Return who looks at messages."""
    return Viewer(side=side, store_name=request.app.state.settings.store_name)


IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="Makes a retry safe: the same key, path and fields lead to the first result.",
    ),
]

PathId = Annotated[StoreId, BeforeValidator(unquote), Path(description="The store's own id, percent-encoded.")]

ConversationId = Annotated[UUID, Path(description="The conversation's id.")]
Statuses = Annotated[list[Status] | None, Query(description="Only in this status; it may repeat.")]
OrderId = Annotated[StoreId | None, Query(description="Only those about this order, by the store's own id.")]
Order = Annotated[Literal["asc", "desc"], Query(description="Oldest or newest message first.")]
AfterNumber = Annotated[
    int | None, Query(ge=0, le=MAX_NUMBER, description="Only messages with a higher number than this.")
]

Peek = Annotated[bool, Query(description="Look without marking as read.")]


def is_prefetch(
    purpose: Annotated[str | None, Header(alias="Sec-Purpose", include_in_schema=False)] = None,
) -> bool:
    """Tell whether a browser only fetches ahead: nobody has read anything then."""
    return purpose is not None and "prefetch" in purpose


def looks_only(request: Request, prefetch: Annotated[bool, Depends(is_prefetch)]) -> bool:
    """Tell whether nobody reads what is answered: it is fetched ahead, or its head is all that is asked for."""
    return prefetch or request.method == "HEAD"


Prefetch = Annotated[bool, Depends(looks_only)]


def tell_replay(response: Response, *, replayed: bool) -> None:
    """Mark an answer that repeats an earlier one."""
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
