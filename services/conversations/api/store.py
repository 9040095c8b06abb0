"""What the store's backend sends: its users and orders. Every call may be repeated."""

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
from services.conversations.api.response_schemas import ErasureOut, LineOut, RecordOut
from services.conversations.api.store_bodies import body_of, sent
from services.conversations.catalog import orders, sync
from services.conversations.catalog.ndjson_import import import_lines
from services.conversations.catalog.schemas import Checked, OrderLine, PutOrder, PutUser, UserLine
from services.conversations.errors import OrderOfAnotherUser
from services.conversations.identity import erasure, sessions
from services.conversations.messaging import erasure_batches
from shared.auth import Role, require
from shared.database import DbSession, SessionFactory, request_transaction
from shared.http import ApiRouter
from shared.json_schema import schema_of
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, problem_responses

_PREFIX = "/api/v1/store"
IMPORT = f"{_PREFIX}/import"
LINES = "application/x-ndjson"

_IN_MEMORY = 256 * 1024  # bytes of answers
_PIECE = 64 * 1024

router = ApiRouter(
    prefix=_PREFIX,
    tags=["Store"],
    dependencies=[Depends(require(Role.STORE))],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)

_CREATED: dict[int | str, dict[str, Any]] = {
    201: {"description": "It is new."},
    200: {"description": "It was there; now it is as given."},
}


SentUser = Annotated[Checked[PutUser], sent(PutUser)]
SentOrder = Annotated[Checked[PutOrder], sent(PutOrder)]


@router.put("/users/{user_id}", responses=_CREATED, response_model_exclude_none=True, openapi_extra=body_of(PutUser))
async def put_user(user_id: PathId, body: SentUser, session: DbSession, response: Response) -> RecordOut:
    """Take over a user. An `updated_at` older than the stored one changes nothing.

    A field that cannot be used is left out or replaced by its nearest usable form, and is named in `warnings`.
    """
    created = await sync.put_user(session, body.record.of(user_id))
    response.status_code = 201 if created else 200
    return RecordOut(id=user_id, **body.notes)


ErasureId = Annotated[UUID, Path(description="As the deletion's answer has named it.")]

_ERASING: dict[int | str, dict[str, Any]] = {
    202: {
        "model": ErasureOut,
        "description": "Out of sight; the rest is erased in the background. `Location` tells how far that has come.",
    },
}


@router.delete("/users/{user_id}", status_code=204, response_model=None, responses=_ERASING)
async def delete_user(
    user_id: PathId,
    request: Request,
    content: Annotated[bool, Query(description="Erase what the person wrote as well: their conversations.")] = False,
) -> Response:
    """Erase a user's name, address and unsent mail, and refuse their tokens and sessions. Their conversations stay.

    With `content=true` a customer's conversations are deleted too, as a whole. What a person wrote as an admin stays,
    shown as the store's. 204 when all is done; 202 when there is so much that the rest is erased in the background.
    """
    kept: SessionFactory = request.app.state.sessions
    # Each step commits: the user is refused before their conversations are locked, and a process that dies in
    # between leaves what it has begun to the relay.
    async with request_transaction(kept) as session:
        erasure_id = await erasure.delete_user(session, user_id, content=content)
    if erasure_id is None:
        return Response(status_code=204)
    more = True
    while more:
        async with request_transaction(kept) as session:
            more = await erasure_batches.hide_conversations(session, erasure_id)
    async with request_transaction(kept) as session:
        await erasure_batches.erase_batch(session, erasure_id)
        progress = ErasureOut.of(await erasure_batches.read_progress(session, erasure_id))
    if progress.state == "done":
        return Response(status_code=204)
    headers = {"Location": f"{_PREFIX}/erasures/{erasure_id}"}
    return JSONResponse(TypeAdapter(ErasureOut).dump_python(progress, mode="json"), 202, headers)


@router.get("/erasures/{erasure_id}", responses=problem_responses(NotFound))
async def get_erasure(
    erasure_id: Annotated[UUID, Path(description="As the deletion has named it.")], session: DbSession
) -> ErasureOut:
    """Tell how far the erasure of a user has come. It is known for as long as the log is kept."""
    return ErasureOut.of(await erasure_batches.read_progress(session, erasure_id))


@router.delete("/users/{user_id}/sessions", status_code=204)
async def end_sessions(user_id: PathId, session: DbSession) -> None:
    """End a user's sessions in all browsers, for when they sign out of the store. One who is not known has none."""
    await sessions.end_all_of(session, user_id)


@router.put(
    "/orders/{order_id}",
    responses={**_CREATED, **problem_responses(OrderOfAnotherUser)},
    response_model_exclude_none=True,
    openapi_extra=body_of(PutOrder),
)
async def put_order(order_id: PathId, body: SentOrder, session: DbSession, response: Response) -> RecordOut:
    """Take over an order. An `updated_at` older than the stored one changes nothing.

    An optional field or an item that cannot be used is left out or replaced by its nearest usable form, and is named
    in `warnings`. Items beyond the first 100 are counted in `items_omitted`.
    """
    created = await sync.put_order(session, body.record.of(order_id))
    response.status_code = 201 if created else 200
    return RecordOut(id=order_id, **body.notes)


@router.delete("/orders/{order_id}", status_code=204)
async def delete_order(order_id: PathId, session: DbSession) -> None:
    """Note that an order was deleted; conversations about it keep its last state."""
    await orders.delete_order(session, order_id)


_SENT: dict[str, Any] = {
    "schema": {"type": "string"},
    "x-itemSchema": {"oneOf": [schema_of(UserLine), schema_of(OrderLine)]},
    "example": "".join(json.dumps(schema_of(line)["examples"][0]) + "\n" for line in (UserLine, OrderLine)),
}
_IMPORT: dict[str, Any] = {
    "description": "A JSON object a line, in UTF-8: users and orders in any order. Blank lines are skipped, and count.",
    "required": False,  # there may be nothing to import
    "content": {LINES: _SENT},
}
_IMPORTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What became of each line that was not blank, in their order.",
        "content": {LINES: {"schema": {"type": "string"}, "x-itemSchema": schema_of(LineOut)}},
    },
}


async def _spool() -> AsyncIterator[BinaryIO]:
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as kept:
        yield cast("BinaryIO", kept)


@router.post(
    "/import",
    response_class=StreamingResponse,
    responses=_IMPORTED,
    openapi_extra={"requestBody": _IMPORT},
)
async def import_records(request: Request, spool: Annotated[BinaryIO, Depends(_spool)]) -> Response:
    """Take over any number of users and orders, as the PUTs would one after the other; one answer a line.

    A line that is refused hinders no other; one over 64 KiB is refused. What was taken is saved batch by batch: after a
    503, or a connection that broke, send everything again, since nothing is taken twice.
    """
    # They wait for the end of the body: most clients send all of it before they read, and many proxies let no answer
    # begin before; with both sides' buffers full, nobody would go on.
    try:
        async for answer in import_lines(request.stream(), request.app.state.sessions):
            spool.write(json.dumps(answer).encode() + b"\n")
    except ClientDisconnect:
        return Response(status_code=400)  # to nobody; what was committed stays
    spool.seek(0)
    return StreamingResponse(_pieces(spool), media_type=LINES)


async def _pieces(kept: BinaryIO) -> AsyncIterator[bytes]:
    while piece := kept.read(_PIECE):
        yield piece
