"""What a real Postfix reports about our emails, and what becomes of them."""

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from tests.helpers.waiting import eventually
from tests.real_mail.helpers.town import DEADLINE, Town


async def statuses(town: Town) -> list[tuple[str, str | None]]:
    """Return the states of our emails, with their reasons."""
    async with town.rig.sweeping.notifications() as session:
        return [tuple(row) for row in await session.execute(text("select state, reason from emails order by id"))]


async def suppressed(town: Town) -> list[str]:
    async with town.rig.sweeping.notifications() as session:
        return list(await session.scalars(text("select reason from suppressions")))


def reports(effect: str) -> float:
    return REGISTRY.get_sample_value("chats_inbound_reports_total", {"effect": effect}) or 0


# The customer's mailbox, why its emails do not arrive, and whether it gets another one.
@pytest.mark.parametrize(
    ("mailbox", "reason", "next_email"),
    [
        ("nobody", "mailbox-unknown", ("suppressed", "bounced-address")),
        ("full", "mailbox-full", ("bounced", "mailbox-full")),
    ],
)
async def test_a_bounce_is_shown_and_only_an_unknown_address_gets_no_more(
    town: Town, mailbox: str, reason: str, next_email: tuple[str, str]
) -> None:
    await town.move_to(mailbox)
    await town.write()
    await town.send()

    async def bounced() -> bool:
        return await statuses(town) == [("bounced", reason)]

    await eventually(bounced, deadline=DEADLINE)
    assert await suppressed(town) == ([reason] if next_email[0] == "suppressed" else [])
    assert await town.rig.rows() == []
    assert await town.thread() == []
    await town.write()
    await town.send()

    async def ended() -> bool:
        return await statuses(town) == [("bounced", reason), next_email]

    await eventually(ended, deadline=DEADLINE)


async def test_a_delay_changes_nothing(town: Town) -> None:
    before = reports("delayed")
    await town.move_to("anna", domain="slow.test")
    await town.write()
    await town.send()
    await eventually(lambda: reports("delayed") > before, deadline=DEADLINE)
    assert await statuses(town) == [("sent", None)]
    assert await suppressed(town) == []
    assert await town.rig.rows() == []
