import pytest
from redis.asyncio import Redis

from deploy.doctor.broker import check
from tests.service.helpers.valkey_process import Valkey

Found = list[tuple[str, str]]


async def found(monkeypatch: pytest.MonkeyPatch, databases: dict[str, str], broker: str, redis: str = "") -> Found:
    monkeypatch.setenv("CHATS_CONVERSATIONS_DATABASE_URL", databases["conversations"])
    monkeypatch.setenv("CHATS_BROKER_URL", broker)
    monkeypatch.setenv("CHATS_REDIS_URL", redis)
    return [(finding.severity.name, finding.text) for finding in await check()]


async def test_a_broker_is_used_as_the_relay_and_the_worker_use_it_and_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str], valkey: Valkey
) -> None:
    findings = await found(monkeypatch, databases, valkey.url, valkey.url)
    assert ("OK", "Broker: the Redis or Valkey carries messages.") in findings
    assert ("WARNING", "Broker: no worker answers, 0 tasks wait.") in findings
    assert [severity for severity, text in findings if text.startswith("Redis: usable")] == ["OK"]
    async with Redis.from_url(valkey.url) as redis:
        assert not [key for key in await redis.keys() if b"doctor" in key]


async def test_a_wrong_password_is_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str], valkey: Valkey
) -> None:
    url = valkey.url.replace(":test@", ":hidden@")
    assert url != valkey.url
    findings = await found(monkeypatch, databases, url, url)
    assert [severity for severity, _ in findings] == ["FAULT", "FAULT"]
    assert all("refuses the user or the password" in text and "hidden" not in text for _, text in findings)


@pytest.mark.parametrize(
    ("channels", "commands"), [(["*"], ["+@all", "-rpop"]), (["chats:*"], ["+@all"])], ids=["commands", "channels"]
)
async def test_a_user_without_the_right_to_receive_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
    databases: dict[str, str],
    valkey: Valkey,
    channels: list[str],
    commands: list[str],
) -> None:
    async with Redis.from_url(valkey.url) as redis:
        await redis.acl_setuser(
            "sender", enabled=True, passwords=["+pass"], keys=["*"], channels=channels, commands=commands
        )
    url = valkey.url.replace(":test@", "sender:pass@")
    [finding, *_] = await found(monkeypatch, databases, url)
    assert finding[0] == "FAULT"
    assert "could not use it: the broker's user lacks a permission" in finding[1]


async def test_memory_settings_that_lose_tasks_are_warnings(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str], valkey: Valkey
) -> None:
    async with Redis.from_url(valkey.url) as redis:
        await redis.config_set("maxmemory", 0)
        await redis.config_set("maxmemory-policy", "allkeys-lru")
    warnings = [text for severity, text in await found(monkeypatch, databases, valkey.url) if severity == "WARNING"]
    assert "Broker: maxmemory is not set." in warnings
    assert "Broker: maxmemory-policy is allkeys-lru." in warnings


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "amqp://127.0.0.1:1"])
async def test_servers_that_do_not_answer_are_faults(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str], url: str
) -> None:
    findings = await found(monkeypatch, databases, url, "redis://127.0.0.1:1")
    assert [(severity, text.partition(":")[0]) for severity, text in findings] == [
        ("FAULT", "Broker"),
        ("FAULT", "Redis"),
    ]


async def test_without_a_url_there_is_nothing_to_check(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str]
) -> None:
    [(severity, text)] = await found(monkeypatch, databases, "")
    assert (severity, "not checked" in text) == ("NOTE", True)


async def test_a_redis_is_not_left_out_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHATS_CONVERSATIONS_DATABASE_URL", raising=False)
    monkeypatch.delenv("CHATS_BROKER_URL", raising=False)
    monkeypatch.setenv("CHATS_REDIS_URL", "redis://limits.test/0")
    text = "Redis: not checked, because the settings of the relay are not complete here."
    assert ("NOTE", text) in [(finding.severity.name, finding.text) for finding in await check()]
