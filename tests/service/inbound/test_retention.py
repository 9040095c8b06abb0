from sqlalchemy import text

from services.notifications.inbound.retention import purge_originals
from tests.service.inbound.rig import Rig


async def test_originals_and_addresses_go_after_the_retention_and_what_waits_keeps_its_own(rig: Rig) -> None:
    await rig.send_email()
    for number, sender in enumerate(("anna@customer.test", "eve@other.test", "eve@other.test"), 1):
        await rig.deliver(rig.reply(From=sender, **{"Message-ID": f"<{number}@x>"}))
    assert await purge_originals(rig.sweeping.notifications, 30, size=10) == 0
    await rig.run("update inbound_emails set id = uuidv7(interval '-31 days') where same_as <> '<3@x>'")
    assert await purge_originals(rig.sweeping.notifications, 30, size=10) == 1
    assert await purge_originals(rig.sweeping.notifications, 30, size=10) == 0
    by_id = {row.same_as: (row.from_address, row.state) for row in await rig.rows()}
    assert by_id == {
        "<1@x>": ("anna@customer.test", "received"),
        "<2@x>": (None, "ignored"),
        "<3@x>": ("eve@other.test", "held"),
    }
    ended = "select id from inbound_emails where same_as = '<2@x>'"
    told = "select subject_id from events where type = 'inbound.updated' order by seq desc limit 1"
    assert await rig.column(ended) == await rig.column(told)


async def test_addresses_for_replies_go_long_after_they_have_expired(rig: Rig) -> None:
    await rig.send_email()
    await rig.run("update reply_addresses set email_id = uuidv7(interval '-181 days')")
    await purge_originals(rig.sweeping.notifications, 30, size=10)
    assert await rig.deliver(rig.reply()) is not None
    await rig.run("update reply_addresses set expires_at = now() - interval '91 days'")
    await purge_originals(rig.sweeping.notifications, 30, size=10)
    async with rig.sweeping.notifications() as session:
        assert await session.scalar(text("select count(*) from reply_addresses")) == 0


async def test_emails_that_became_nothing_go_long_after_and_posted_ones_stay(rig: Rig) -> None:
    await rig.send_email()
    for number in (1, 2):
        await rig.deliver(rig.reply(**{"Message-ID": f"<{number}@x>"}))
    await rig.run("update inbound_emails set state = case same_as when '<1@x>' then 'ignored' else 'posted' end")
    await rig.run("update inbound_emails set id = uuidv7(interval '-91 days'), original = null")
    await purge_originals(rig.sweeping.notifications, 30, size=10)
    assert [row.same_as for row in await rig.rows()] == ["<2@x>"]
