"""What the store's backend sends: its users and orders. Every call may be repeated."""

from typing import Any

from fastapi import APIRouter, Depends, Response

from services.conversations import people, sessions, store_sync
from services.conversations.api.bodies import PutOrder, PutUser
from services.conversations.api.dependencies import PathId
from services.conversations.errors import OrderOwnerFixed
from shared.auth import Role, require
from shared.database import Session
from shared.problems import Forbidden, Invalid, Unauthenticated, Unavailable, answers

router = APIRouter(
    prefix="/api/v1/store",
    tags=["Store"],
    dependencies=[Depends(require(Role.STORE))],
    responses=answers(Unauthenticated, Forbidden, Invalid, Unavailable),
)

_CREATED: dict[int | str, dict[str, Any]] = {
    201: {"description": "It is new."},
    200: {"description": "It was there; now it is as given."},
}


@router.put("/users/{user_id}", responses=_CREATED)
async def put_user(user_id: PathId, body: PutUser, session: Session, response: Response) -> dict[str, str]:
    """Take over a user. An `updated_at` older than the stored one changes nothing."""
    created = await store_sync.put_user(session, body.of(user_id))
    response.status_code = 201 if created else 200
    return {"id": user_id}


@router.delete("/users/{user_id}", status_code=204)
async def delete_user(user_id: PathId, session: Session) -> None:
    """Erase a user's name, address and unsent mail, and refuse their tokens and sessions. Their conversations stay."""
    await people.delete_user(session, user_id)


@router.delete("/users/{user_id}/sessions", status_code=204)
async def end_sessions(user_id: PathId, session: Session) -> None:
    """End a user's sessions in all browsers, for when they sign out of the store. One who is not known has none."""
    await sessions.end_all_of(session, user_id)


@router.put("/orders/{order_id}", responses={**_CREATED, **answers(OrderOwnerFixed)})
async def put_order(order_id: PathId, body: PutOrder, session: Session, response: Response) -> dict[str, str]:
    """Take over an order. An `updated_at` older than the stored one changes nothing."""
    created = await store_sync.put_order(session, body.of(order_id))
    response.status_code = 201 if created else 200
    return {"id": order_id}


@router.delete("/orders/{order_id}", status_code=204)
async def delete_order(order_id: PathId, session: Session) -> None:
    """Note that an order was deleted; conversations about it keep its last state."""
    await people.delete_order(session, order_id)
