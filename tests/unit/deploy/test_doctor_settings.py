import os

import pytest

from deploy.doctor.findings import Severity
from deploy.doctor.settings import check

DATABASES = {
    f"CHATS_{name}_DATABASE_URL": "postgresql://chats:hidden@db.test/chats"
    for name in ("CONVERSATIONS", "NOTIFICATIONS")
}
COMPLETE = {
    **DATABASES,
    "CHATS_AUTH_SECRET": "a secret for tests of 32 bytes or more",
    "CHATS_FEED_SECRET": "the feed's own secret",
    "CHATS_BROKER_URL": "redis://broker.test/0",
    "CHATS_REDIS_URL": "redis://limits.test/0",
    "CHATS_SMTP_URL": "smtp+starttls://mail.test",
    "CHATS_SUPPORT_EMAIL": "support@store.test",
    "CHATS_PUBLIC_URL": "https://help.store.test",
}

INBOUND = {
    "CHATS_INBOUND_DOMAIN": "reply.store.test",
    "CHATS_INBOUND_SECRET": "hidden",
    "CHATS_INBOUND_ADDRESS": "help@store.test",
}


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CHATS_")]:
        monkeypatch.delenv(name)


async def found(monkeypatch: pytest.MonkeyPatch, **settings: str) -> list[tuple[str, str, str | None]]:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return [(finding.severity.name, finding.text, finding.advice) for finding in await check()]


async def test_complete_settings_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    [(severity, text, _)] = await found(monkeypatch, **COMPLETE)
    assert (severity, text) == (
        "OK",
        "Complete for: api, relay, jobs, thumbnails, notifications-api, worker, sweeper, inbound.",
    )


async def test_an_environment_without_settings_is_not_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("WARNING", "No process can start in this environment.") in [
        finding[:2] for finding in await found(monkeypatch)
    ]


async def test_missing_settings_only_say_which_process_cannot_start_here(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for severity, text, _ in await found(monkeypatch, **DATABASES) if severity == "NOTE"]
    assert "sweeper cannot start in this environment: CHATS_FEED_SECRET must be set." in texts
    [tokens] = [text for text in texts if text.startswith("notifications-api cannot start in this environment")]
    assert "CHATS_AUTH_SECRET" in tokens


@pytest.mark.parametrize(
    ("name", "value"), [("CHATS_RETENTION_DAYS", "0"), ("CHATS_AUTH_SECRET", "hidden"), ("CHATS_LOCALE", "?")]
)
async def test_an_invalid_setting_is_one_fault_that_does_not_repeat_a_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    faults = [text for severity, text, _ in await found(monkeypatch, **COMPLETE | {name: value}) if severity == "FAULT"]
    assert [text.partition(":")[0] for text in faults] == [name]
    assert "hidden" not in faults[0]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("CHATS_STORE_NMAE", "Did you mean CHATS_STORE_NAME?"),
        ("CHATS_AUTH_SECRT_FILE", "Did you mean CHATS_AUTH_SECRET?"),
        ("CHATS_SOMETHING_ELSE", "Remove it."),
    ],
)
async def test_a_variable_that_is_no_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, advice: str) -> None:
    assert ("WARNING", f"{name} is not a setting.", advice) in await found(monkeypatch, **COMPLETE | {name: "x"})


@pytest.mark.parametrize(
    ("changes", "severity", "part"),
    [
        ({"CHATS_PUBLIC_URL": "http://help.store.test"}, "WARNING", "unencrypted"),
        ({"CHATS_PUBLIC_URL": "http://127.0.0.1:8000"}, "NOTE", "on this machine only"),
        ({"CHATS_REDIS_URL": "redis://:hidden@broker.test/3"}, "WARNING", "the same server"),
        ({"CHATS_BROKER_URL": "amqp://broker.test", "CHATS_REDIS_URL": ""}, "WARNING", "no rate limits"),
        ({"CHATS_SMTP_URL": ""}, "WARNING", "every email is suppressed"),
        ({"CHATS_EMAIL_ONLY_TO": "*@store.test"}, "NOTE", "*@store.test only"),
        ({"CHATS_SUPPORT_EMAIL": ""}, "NOTE", "no email tells the admins"),
        (INBOUND, "WARNING", "are held"),
    ],
)
async def test_settings_that_are_right_for_a_trial_only_are_named(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], severity: str, part: str
) -> None:
    [(level, text, _)] = [entry for entry in await found(monkeypatch, **COMPLETE | changes) if entry[0] != "OK"]
    assert level == severity
    assert part in text
    assert "hidden" not in text


async def test_emails_with_a_trusted_mail_server_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = COMPLETE | INBOUND | {"CHATS_INBOUND_AUTHSERV_ID": "mx.store.test"}
    assert [severity for severity, *_ in await found(monkeypatch, **complete)] == ["OK"]


def test_the_exit_code_rises_with_the_severity() -> None:
    assert [severity.exit_code for severity in Severity] == [0, 0, 1, 2]
