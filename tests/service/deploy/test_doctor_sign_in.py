import pytest

from deploy.doctor.sign_in import check
from tests.helpers.identity_provider import Provider

SECRET = "a-secret-for-tests-of-32-bytes-or-more"


async def found(monkeypatch: pytest.MonkeyPatch, **settings: str) -> list[tuple[str, str]]:
    for name in ("SECRET", "JWKS_URL", "ISSUER"):
        monkeypatch.setenv(f"CHATS_AUTH_{name}", settings.get(name, ""))
    return [(finding.severity.name, finding.text) for finding in await check()]


async def test_a_secret_alone_is_fine_and_a_second_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [severity for severity, _ in await found(monkeypatch, SECRET=SECRET)] == ["OK"]
    [(_, text)] = await found(monkeypatch, SECRET=f"{SECRET},{SECRET}2")
    assert "rotated" in text


async def test_the_providers_keys_are_counted_and_its_url_is_shown_without_its_query(
    monkeypatch: pytest.MonkeyPatch, provider: Provider
) -> None:
    findings = await found(monkeypatch, JWKS_URL=f"{provider.url}?key=hidden", ISSUER="https://id.test")
    assert (
        "OK",
        f"{provider.url} has 3 keys, for ES256, Ed25519, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512.",
    ) in findings
    assert [severity for severity, _ in findings] == ["NOTE", "OK"]
    assert [level for level, text in await found(monkeypatch, JWKS_URL=provider.url) if "ISSUER" in text] == ["WARNING"]


async def test_a_provider_without_usable_keys_is_a_fault(monkeypatch: pytest.MonkeyPatch, provider: Provider) -> None:
    provider.jwks = []
    assert ("FAULT", f"{provider.url} has no key that can verify a token.") in await found(
        monkeypatch, JWKS_URL=provider.url
    )
    faults = await found(monkeypatch, JWKS_URL="http://127.0.0.1:1/keys")
    assert [text for level, text in faults if level == "FAULT"] == [
        "The keys at http://127.0.0.1:1/keys cannot be read: ConnectError."
    ]


async def test_without_either_there_is_nothing_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [severity for severity, _ in await found(monkeypatch)] == ["NOTE"]
