"""Routes for the store's backend, which syncs its users and orders. All calls are idempotent."""

import json
import tempfile
from collections.abc import AsyncIterator
from typing import Annotated, Any, BinaryIO, cast
from uuid import UUID

from fastapi import Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect

from services.conversations.api.dependencies import PathId
from services.conversations.api.schemas.requests import Merge
from services.conversations.api.schemas.store import ConnectionOut, ErasureOut, LineOut, MergedOut, RecordOut
from services.conversations.api.state import api_state
from services.conversations.api.store_bodies import body_schema, store_body
from services.conversations.audit.recording import Act, record
from services.conversations.catalog import orders, sync
from services.conversations.catalog.ndjson_import import import_lines
from services.conversations.catalog.schemas import Checked, OrderLine, PutOrder, PutUser, UserLine
from services.conversations.errors import CannotMerge, OrderOfAnotherUser
from services.conversations.identity import merging, sessions
from services.conversations.messaging import erasure_batches
from services.conversations.messaging.merged_ids import person_of
from services.conversations.privacy.erasure import erase_user
from services.conversations.rules import ActorRole, AuditAction
from shared.api.dependencies import DbSession, require
from shared.api.json_schema import schema_of
from shared.api.routing import ApiRouter
from shared.auth.principal import Principal
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, problem_responses
from shared.settings import Role

_PREFIX = "/api/v1/store"
IMPORT = f"{_PREFIX}/import"
LINES = "application/x-ndjson"

_IN_MEMORY = 256 * 1024  # bytes of results before they go to disk
_CHUNK = 64 * 1024

router = ApiRouter(
    prefix=_PREFIX,
    tags=["Users and orders"],
    dependencies=[Depends(require(Role.STORE))],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)

_CREATED: dict[int | str, dict[str, Any]] = {
    201: {"description": "Created."},
    200: {"description": "Updated."},
}


Store = Annotated[Principal, Depends(require(Role.STORE))]
UserBody = Annotated[Checked[PutUser], store_body(PutUser)]
OrderBody = Annotated[Checked[PutOrder], store_body(PutOrder)]


@router.put(
    "/users/{user_id}",
    summary="Create or update a user",
    responses=_CREATED,
    response_model_exclude_none=True,
    openapi_extra=body_schema(PutUser),
)
async def put_user(user_id: PathId, body: UserBody, session: DbSession, response: Response) -> RecordOut:
    """Create or update a user. An `updated_at` older than the stored one changes nothing.

    An optional field with an invalid value is left out or replaced by its nearest valid form, and listed in `warnings`.
    """
    created = await sync.put_user(session, body.record.to_upsert(user_id))
    response.status_code = 201 if created else 200
    return RecordOut(id=user_id, **body.notes)


_ERASING: dict[int | str, dict[str, Any]] = {
    202: {
        "model": ErasureOut,
        "description": "Hidden at once; the rest is erased in the background. `Location` reports the progress.",
    },
}


@router.delete("/users/{user_id}", summary="Erase a user", status_code=204, response_model=None, responses=_ERASING)
async def delete_user(
    user_id: PathId,
    request: Request,
    caller: Store,
    content: Annotated[bool, Query(description="Also delete a customer's conversations.")] = False,
) -> Response:
    """Erase a user's name, address and unsent emails, and reject their tokens and sessions. Conversations are kept.

    With `content=true` a customer's conversations are deleted too. What a user wrote as an admin is kept, shown under
    the store's name. Returns 204 if everything is erased, 202 if the rest is erased in the background; `Location` has
    the receipt.
    """
    receipt = await erase_user(api_state(request).sessions, user_id, content=content, asked_by=caller.id)
    if receipt is None:
        return Response(status_code=204)
    progress = ErasureOut.of(receipt)
    headers = {"Location": f"{_PREFIX}/erasures/{receipt.id}"}
    if progress.state == "done":
        return Response(status_code=204, headers=headers)
    return JSONResponse(TypeAdapter(ErasureOut).dump_python(progress, mode="json"), 202, headers)


@router.get("/erasures/{erasure_id}", summary="Get an erasure's progress", responses=problem_responses(NotFound))
async def get_erasure(
    erasure_id: Annotated[UUID, Path(description="The id in the deletion's response.")], session: DbSession
) -> ErasureOut:
    """Return the progress of a user's erasure, and its receipt once it is done: who asked for it, when, and how much.

    It is kept for as long as the audit, and holds no text, name or address.
    """
    return ErasureOut.of(await erasure_batches.read_progress(session, erasure_id))


@router.delete("/users/{user_id}/sessions", summary="End a user's sessions", status_code=204)
async def end_sessions(user_id: PathId, caller: Store, session: DbSession) -> None:
    """End all browser sessions of a user, for example when they sign out of the store."""
    await sessions.end_all_sessions(session, await person_of(session, user_id))
    await _record(session, AuditAction.USER_SESSIONS_ENDED, caller, user_id)


@router.post(
    "/users/{user_id}/merge", summary="Merge a customer into another one", responses=problem_responses(CannotMerge)
)
async def merge_user(user_id: PathId, body: Merge, request: Request, caller: Store) -> MergedOut:
    """Make a customer's id an alias of another customer's, such as a guest's id of the account that they made.

    From then on the person has the conversations and orders of both, and the old id acts for them: its tokens,
    sessions and replies by email, and this API. They keep their profile, and get from the old one what they lack.
    It cannot be undone. Merging again changes nothing.
    """
    person_id = await merging.merge_users(api_state(request).sessions, user_id, body.into, actor_id=caller.id)
    return MergedOut(id=user_id, merged_into=person_id)


@router.put(
    "/orders/{order_id}",
    summary="Create or update an order",
    responses={**_CREATED, **problem_responses(OrderOfAnotherUser)},
    response_model_exclude_none=True,
    openapi_extra=body_schema(PutOrder),
)
async def put_order(order_id: PathId, body: OrderBody, session: DbSession, response: Response) -> RecordOut:
    """Create or update an order. An `updated_at` older than the stored one changes nothing.

    An optional field or item with an invalid value is left out or replaced by its nearest valid form, and listed in
    `warnings`. Items beyond the first 100 are counted in `items_omitted`.
    """
    created = await sync.put_order(session, body.record.to_upsert(order_id))
    response.status_code = 201 if created else 200
    return RecordOut(id=order_id, **body.notes)


@router.delete("/orders/{order_id}", summary="Delete an order", status_code=204)
async def delete_order(order_id: PathId, caller: Store, session: DbSession) -> None:
    """Delete an order. Conversations about it keep its last state."""
    await orders.delete_order(session, order_id)
    await _record(session, AuditAction.ORDER_DELETED, caller, order_id)


@router.get("/connection", summary="Get the connection as seen here")
async def get_connection(request: Request) -> ConnectionOut:
    """Return how this request arrived through the proxies. `chats doctor` compares it with what was sent."""
    address = request.client.host if request.client else None
    return ConnectionOut(address, request.url.scheme, request.headers.get("Host", ""), api_state(request).instance)


_LINES_IN: dict[str, Any] = {
    "schema": {"type": "string"},
    "x-itemSchema": {"oneOf": [schema_of(UserLine), schema_of(OrderLine)]},
    "example": "".join(json.dumps(schema_of(line)["examples"][0]) + "\n" for line in (UserLine, OrderLine)),
}
_IMPORT: dict[str, Any] = {
    "description": "One JSON object per line, in UTF-8: users and orders in any sequence. Blank lines are skipped.",
    "required": False,  # an empty import is valid
    "content": {LINES: _LINES_IN},
}
_IMPORTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The result of each line that is not blank, in the same sequence.",
        "content": {LINES: {"schema": {"type": "string"}, "x-itemSchema": schema_of(LineOut)}},
    },
}


async def _spool() -> AsyncIterator[BinaryIO]:
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
        yield cast("BinaryIO", spool)


@router.post(
    "/import",
    summary="Import users and orders",
    response_class=StreamingResponse,
    responses=_IMPORTED,
    openapi_extra={"requestBody": _IMPORT},
)
async def import_records(request: Request, spool: Annotated[BinaryIO, Depends(_spool)]) -> Response:
    """Create or update any number of users and orders, like one PUT per line. The response has one result per line.

    A rejected line does not affect the others. Lines over 64 KiB are rejected. Lines are saved in batches: after a 503
    or a lost connection, send the whole file again, which is safe.
    """
    # Results are sent after the whole body was read. Most clients send all of it before they read, and many proxies
    # hold back an early response: with the buffers of both sides full, neither would continue.
    try:
        async for result in import_lines(request.stream(), api_state(request).sessions):
            spool.write(json.dumps(result).encode() + b"\n")
    except ClientDisconnect:
        return Response(status_code=400)  # the client is gone; committed batches stay
    spool.seek(0)
    return StreamingResponse(_chunks(spool), media_type=LINES)


async def _chunks(spool: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := spool.read(_CHUNK):
        yield chunk


async def _record(
    session: DbSession, action: AuditAction, caller: Principal, target_id: str, data: dict[str, Any] | None = None
) -> None:
    await record(session, Act(action, caller.id, target_id=target_id, data=data, role=ActorRole.STORE))
