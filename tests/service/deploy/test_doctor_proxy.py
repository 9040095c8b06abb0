import pytest

from deploy.doctor.proxy import check
from shared.database.transactions import SessionFactory
from tests.service.conftest import As, running_api


@pytest.mark.parametrize(
    ("role", "severity", "text"),
    [
        ("store", "OK", "The API sees this machine's own address, 127.0.0.1."),
        ("store", "NOTE", "One copy of the API answered 20 requests."),
        ("admin", "FAULT", "answers with status 403"),
        (None, "NOTE", "no CHATS_DOCTOR_TOKEN"),
    ],
)
async def test_an_api_without_a_proxy_shows_what_a_proxy_has_to_hide(
    monkeypatch: pytest.MonkeyPatch,
    conversations: SessionFactory,
    databases: dict[str, str],
    acting_as: As,
    role: str | None,
    severity: str,
    text: str,
) -> None:
    async with running_api(conversations, databases["conversations"]) as live:
        monkeypatch.setenv("CHATS_PUBLIC_URL", live.origin)
        monkeypatch.setenv("CHATS_AUTH_SECRET", "")
        monkeypatch.setenv("CHATS_AUTH_JWKS_URL", "https://id.test/keys")
        if role is not None:
            token = acting_as("shop", role)["Authorization"].removeprefix("Bearer ")
            monkeypatch.setenv("CHATS_DOCTOR_TOKEN", token)
        found = [(finding.severity.name, finding.text) for finding in await check()]
    assert {text for severity, text in found if severity == "FAULT"} >= {
        "/api/v1/notifications answers with status 404.",
        "/metrics can be reached from outside (status 200).",
        "/internal/events can be reached from outside (status 401).",
    }
    assert [level for level, line in found if text in line] == [severity]
