"""`chats emails suppressed`, and retrying bounced emails."""

import pytest
from prometheus_client import generate_latest
from sqlalchemy import text

from services.notifications import metrics
from shared.database.transactions import SessionFactory, transaction
from tests.service.delivery.test_circuit_breaker import create_emails, states
from tests.service.deploy.conftest import Chats
from tests.service.deploy.test_emails_command import SETTINGS

SUPPRESS = text("""
    insert into suppressions (address_hash, user_id, email_id, reason, status)
    select sha256(leave_key || convert_to('suppressed address ' || 'anna@customer.test', 'UTF8')), 'anna',
        gen_random_uuid(), 'mailbox-unknown', '5.1.1'
    from gate
""")
REFUSED = text("""
    insert into bounces (email_id, address_hash, status, reason, consequence, permanent)
    select gen_random_uuid(), decode(md5(random()::text), 'hex'), '5.7.1', 'sender-refused', 'open-breaker', true
    from generate_series(1, 3)
""")
BOUNCED = text("update emails set state = 'bounced', reason = 'sender-refused', finished_at = now()")


async def test_suppressed_addresses_are_listed_and_removed_by_address_or_id(
    chats: Chats, notifications: SessionFactory
) -> None:
    for by_id in (False, True):
        async with transaction(notifications) as session:
            await session.execute(SUPPRESS)
        listed = (await chats("emails", "suppressed", "list", "--user", "anna")).output
        header, row = listed.splitlines()
        assert header.split() == ["ID", "SINCE", "(UTC)", "REASON", "STATUS", "USER", "EMAIL"]
        assert row.split()[3:6] == ["mailbox-unknown", "5.1.1", "anna"]
        assert "customer.test" not in listed
        refused = await chats("emails", "suppressed", "remove", "bert@customer.test")
        assert "not suppressed" in str(refused.exception)
        which = row.split()[0] if by_id else "Anna@Customer.TEST"
        assert "emails go to this address again" in (await chats("emails", "suppressed", "remove", which)).output
        assert "No suppressed addresses" in (await chats("emails", "suppressed", "list")).output
    unknown = "01900000-0000-7000-8000-000000000000"
    for wrong, said in (("a b@c", "not a valid"), ("nonsense", "id"), (unknown, "no suppressed address")):
        refused = await chats("emails", "suppressed", "remove", wrong)
        assert said in str(refused.exception)


async def test_a_merged_id_names_the_address_of_the_person(chats: Chats, notifications: SessionFactory) -> None:
    async with transaction(notifications) as session:
        await session.execute(SUPPRESS)
        await session.execute(
            text("insert into people (id, version, deleted, merged_into) values ('guest-1', 1, true, 'anna')")
        )
    for user, is_anna in (("guest-1", True), ("guest-2", False)):
        assert ("anna" in (await chats("emails", "suppressed", "list", "--user", user)).output) is is_anna


async def test_bounced_emails_are_retried_together(chats: Chats, notifications: SessionFactory) -> None:
    await create_emails(notifications, SETTINGS, "anna", "bert")
    async with transaction(notifications) as session:
        await session.execute(BOUNCED)
    assert "bounced  sender-refused" in (await chats("emails", "list", "--state", "bounced")).output
    assert "0 emails queued" in (await chats("emails", "retry", "--state", "failed")).output
    assert "2 emails queued" in (await chats("emails", "retry", "--state", "bounced", "--since", "1h")).output
    assert {state for state, *_ in (await states(notifications)).values()} == {"scheduled"}


@pytest.mark.usefixtures("conversations")
async def test_the_status_says_when_nothing_is_suppressed_and_when_our_sender_is_refused(
    chats: Chats, notifications: SessionFactory
) -> None:
    def line(output: str) -> str:
        return next(line for line in output.splitlines() if line.startswith("bounces"))

    assert line((await chats("status")).output) == ("bounces       at 0 addresses in the last hour, 0 suppressed")
    async with transaction(notifications) as session:
        await session.execute(SUPPRESS)
        await session.execute(REFUSED)
    await metrics.collect(notifications)
    assert "chats_bounced_sender_refused 3.0" in generate_latest().decode()
    said = line((await chats("status")).output)
    assert said.startswith("bounces       at 3 addresses in the last hour, 1 suppressed   <- 3 refused our sender")
    async with transaction(notifications) as session:
        for _ in range(6):
            await session.execute(REFUSED)
    assert line((await chats("status")).output).endswith("no address is suppressed until the cause is found")
    await metrics.collect(notifications)
    assert "chats_suppressing_suspended 1.0" in generate_latest().decode()
