"""Orders of the store."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.models import Order


async def delete_order(session: AsyncSession, order_id: str) -> None:
    """Note that the store deleted an order; conversations about it keep showing its last state.

    An order that was never here, or is deleted already, changes nothing.
    """
    order = await session.get(Order, order_id, with_for_update=True)
    if order is not None and order.deleted_at is None:
        order.deleted_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
