"""The cycles of a conversation: from a customer's question to its resolution. Pure.

The first cycle begins with the conversation. A customer's message after the resolution begins the next one. A cycle
that an admin opened has no first reply. Setting an unresolved status by hand takes the resolution back; what admins
write after it does not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from services.conversations.rules import ACTIVE, Side, Status


@dataclass(frozen=True, slots=True)
class Cycle:
    """A cycle of a conversation, up to its message `number`. Of people it names admins only, by id."""

    cycle: int  # from 1
    number: int
    opened_at: datetime
    opened_by: str | None = None  # the admin who opened it; None for the customer
    replied_at: datetime | None = None
    replied_by: str | None = None
    resolved_at: datetime | None = None
    resolved_by: str | None = None  # None if nobody did, or if it is not known


class Step(NamedTuple):
    """A message, or a change of the status by hand after message `number`; `status` is the new one."""

    number: int
    at: datetime
    actor_id: str | None
    side: Side | None = None  # of a message
    removed: bool = False
    status: Status | None = None


def advance(cycle: Cycle, steps: Iterable[Step]) -> list[Cycle]:
    """Return a conversation's latest cycle after more steps, and those that follow it.

    `steps` are all after the cycle's number, and the changes of the status after that message, which may repeat.
    """
    cycles: list[Cycle] = []
    for step in steps:
        if step.status is not None:
            if step.status in ACTIVE:
                cycle = replace(cycle, resolved_at=None, resolved_by=None)
            elif cycle.resolved_at is None:
                cycle = replace(cycle, resolved_at=step.at, resolved_by=step.actor_id)
            continue
        if step.side is Side.CUSTOMER and cycle.resolved_at is not None:
            cycles.append(cycle)
            cycle = Cycle(cycle.cycle + 1, step.number, step.at)
        elif _is_first_reply(cycle, step):
            cycle = replace(cycle, replied_at=step.at, replied_by=step.actor_id)
        cycle = replace(cycle, number=step.number)
    return [*cycles, cycle]


def _is_first_reply(cycle: Cycle, step: Step) -> bool:
    return step.side is Side.ADMIN and not step.removed and cycle.opened_by is None and cycle.replied_at is None
