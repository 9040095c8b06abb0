"""`chats conversations expiring`, and what `chats status` says of closed conversations."""

from shared.database.transactions import SessionFactory
from tests.service.deploy.conftest import Chats
from tests.service.helpers.callers import Caller
from tests.service.messaging.test_quiet import age


async def test_what_retention_deletes_can_be_seen_before_it_is_set(
    anna: Caller,
    sam: Caller,
    chats: Chats,
    conversations: SessionFactory,
    notifications: SessionFactory,
) -> None:
    assert notifications

    async def closed(days: str) -> str:
        shown = await chats("status", CHATS_CLOSED_RETENTION_DAYS=days)
        [line] = [line for line in shown.stdout.splitlines() if line.startswith("closed")]
        return line

    ids = [(await anna.open(body="Hello?"))["id"] for _ in range(3)]
    for conversation in ids:
        await sam.edit(conversation, status="CLOSED")
    await age(conversations, 100, "last_activity_at", "changed_at")
    assert "give --days" in str((await chats("conversations", "expiring")).exception)
    assert "7 or more" in str((await chats("conversations", "expiring", "--days", "1")).exception)

    tried = (await chats("conversations", "expiring", "--days", "90", "--limit", "2")).stdout.splitlines()
    assert tried[0].startswith("3 conversations have been closed, without a message since, for 90 days or more.")
    assert [line.split()[-1] for line in tried[1:3]] == ids[:2]
    assert tried[3:] == ["… and 1 more", "Nothing of this is deleted: CHATS_CLOSED_RETENTION_DAYS is not set."]
    assert await closed("") == "closed        conversations are kept"

    set_to = (await chats("conversations", "expiring", CHATS_CLOSED_RETENTION_DAYS="90")).stdout
    assert "`chats jobs` deletes them" in set_to
    assert "3 conversations due to be deleted after 90 days" in await closed("90")
    assert "0 conversations due to be deleted after 365 days" in await closed("365")
    assert len((await anna.get("/conversations"))["items"]) == 3


async def test_a_number_of_days_that_looks_like_a_mistake_is_refused(chats: Chats) -> None:
    for days in ("0", "1", "6.9", "-30", "nan", "ninety"):
        result = await chats("jobs", CHATS_CLOSED_RETENTION_DAYS=days)
        assert result.exit_code != 0
        assert "CHATS_CLOSED_RETENTION_DAYS" in str(result.exception)
        if days in {"0", "1"}:
            assert "must be 7 days or more" in str(result.exception)
