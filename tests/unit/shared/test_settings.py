import pytest

from services.conversations.settings import ApiSettings
from shared.settings import Role, SettingsError, read_settings

SECRET = "a secret for tests of 32 bytes or more"
VALID = {
    "CHATS_CONVERSATIONS_DATABASE_URL": "postgresql://chats:hidden@127.0.0.1/chats",
    "CHATS_AUTH_SECRET": SECRET,
}


def read(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> ApiSettings:
    for name, value in (VALID | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    return read_settings(ApiSettings)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CHATS_AUTH_SECRET", None, "tokens cannot be verified: set CHATS_AUTH_SECRET, CHATS_AUTH_JWKS_URL, or both"),
        ("CHATS_AUTH_SECRET", "", "tokens cannot be verified: set CHATS_AUTH_SECRET, CHATS_AUTH_JWKS_URL, or both"),
        ("CHATS_AUTH_SECRET", " , ", "tokens cannot be verified: set CHATS_AUTH_SECRET, CHATS_AUTH_JWKS_URL, or both"),
        ("CHATS_AUTH_SECRET", "hidden", "CHATS_AUTH_SECRET: a secret must have at least 32 bytes"),
        ("CHATS_AUTH_SECRET", f"{SECRET},hidden", "CHATS_AUTH_SECRET: a secret must have at least 32 bytes"),
        (
            "CHATS_AUTH_SECRET",
            ",".join([SECRET] * 3),
            "CHATS_AUTH_SECRET: must have at most 2 values, separated by commas",
        ),
        ("CHATS_AUTH_AUDIENCE", ",", "CHATS_AUTH_AUDIENCE: must not be empty"),
        ("CHATS_CONVERSATIONS_DATABASE_URL", None, "CHATS_CONVERSATIONS_DATABASE_URL must be set"),
        ("CHATS_CONVERSATIONS_DATABASE_URL", "mysql://chats:hidden@host/chats", "must be one of postgresql"),
        ("CHATS_CONVERSATIONS_DATABASE_URL", "hidden", "must be one of postgresql"),
        (
            "CHATS_CONVERSATIONS_DATABASE_URL",
            "postgresql://chats:hidden@[host/chats",
            "CHATS_CONVERSATIONS_DATABASE_URL: ",
        ),
        ("CHATS_BROKER_URL", "http://chats:hidden@host", "CHATS_BROKER_URL: the URL scheme must be one of redis"),
        ("CHATS_BROKER_URL", "sentinel://:hidden@host:26379", "CHATS_BROKER_URL: a Sentinel URL is not supported"),
        ("CHATS_REDIS_URL", "amqp://chats:hidden@host", "CHATS_REDIS_URL: the URL scheme must be one of redis"),
        ("CHATS_AUTH_ROLE_MAP", "hidden", "CHATS_AUTH_ROLE_MAP must look like name=role"),
        (
            "CHATS_AUTH_ROLE_MAP",
            "support=hidden",
            "CHATS_AUTH_ROLE_MAP: input should be 'customer', 'admin' or 'store'",
        ),
        (
            "CHATS_AUTH_DEFAULT_ROLE",
            "hidden",
            "CHATS_AUTH_DEFAULT_ROLE: input should be 'customer', 'admin' or 'store'",
        ),
        ("CHATS_STORE_ORIGINS", "https://store.test/hidden", "CHATS_STORE_ORIGINS: an origin must look like"),
        (
            "CHATS_AUTH_JWKS_URL",
            "file:///hidden",
            "CHATS_AUTH_JWKS_URL: the URL must look like https://id.example/keys",
        ),
        (
            "CHATS_AUTH_JWKS_URL",
            "https:///hidden",
            "CHATS_AUTH_JWKS_URL: the URL must look like https://id.example/keys",
        ),
        (
            "CHATS_AUTH_JWKS_URL",
            "id.test/hidden",
            "CHATS_AUTH_JWKS_URL: the URL must look like https://id.example/keys",
        ),
        ("CHATS_AUTH_JWKS_URL", "https://[hidden", "CHATS_AUTH_JWKS_URL: "),
        (
            "CHATS_AUTH_JWKS_URL",
            "https://chats:hidden@id.test/keys",
            "CHATS_AUTH_JWKS_URL: the URL must contain no user or password",
        ),
        ("CHATS_PUBLIC_URL", "https://chats:hidden@store.test", "CHATS_PUBLIC_URL: the URL must look like"),
        *(
            ("CHATS_FEED_SECRET", secret, "CHATS_FEED_SECRET: the secret must be printable ASCII")
            for secret in ("hidden\nhidden", "hídden", "hidden ")
        ),
        ("CHATS_STORE_ORIGINS", "hidden", "CHATS_STORE_ORIGINS: an origin must look like"),
        *(
            ("CHATS_STORE_ORIGINS", origin, "CHATS_STORE_ORIGINS: an origin must look like")
            for origin in (
                "*",
                "https://*.store.test",
                "https://hidden:pw@store.test",
                "http://a b",
                "https://store.test:99999",
                "https://store.test?hidden",
                "https://hídden.test",
                "null",
            )
        ),
    ],
)
def test_an_invalid_setting_is_reported_in_one_clear_line_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        read(monkeypatch, **{name: value})
    line = str(error.value)
    assert message in line
    assert "\n" not in line
    assert "hidden" not in line
    assert SECRET not in line


def test_all_faults_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"CHATS_BROKER_URL.*CHATS_AUTH_SECRET"):
        read(monkeypatch, CHATS_AUTH_SECRET="short", CHATS_BROKER_URL="x")


def test_a_providers_keys_are_enough_without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("https://id.test/realms/store/keys?p=policy", "http://keycloak:8080/keys"):
        settings = read(monkeypatch, CHATS_AUTH_SECRET=None, CHATS_AUTH_JWKS_URL=url)
        assert (settings.auth_secret, settings.auth_jwks_url) == ([], url)


def test_settings_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(
        monkeypatch,
        CHATS_AUTH_SECRET=f" {SECRET}, {SECRET[::-1]} ",
        CHATS_AUTH_ROLE_MAP=" support = admin ,backend=store,",
        CHATS_STORE_ORIGINS="https://Store.test:443, http://127.0.0.1:3000,http://[::1]:80,https://b:80",
        CHATS_STORE_NAME="",
    )
    assert [secret.get_secret_value() for secret in settings.auth_secret] == [SECRET, SECRET[::-1]]
    assert settings.auth_role_map == {"support": Role.ADMIN, "backend": Role.STORE}
    assert settings.store_origins == ["https://store.test", "http://127.0.0.1:3000", "http://[::1]", "https://b:80"]
    assert settings.store_name == "Customer support"
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("broker", "redis_url", "expected"),
    [
        ("rediss://broker/0", None, "rediss://broker/0"),
        ("redis+socket:///run/broker", "", "redis+socket:///run/broker"),
        ("redis://broker/0", "redis://cache/1", "redis://cache/1"),
        ("amqp://broker", "redis://cache/1", "redis://cache/1"),
        ("amqp://broker", None, None),
    ],
)
def test_a_redis_broker_also_serves_as_redis_unless_another_is_set(
    monkeypatch: pytest.MonkeyPatch, broker: str, redis_url: str | None, expected: str | None
) -> None:
    assert read(monkeypatch, CHATS_BROKER_URL=broker, CHATS_REDIS_URL=redis_url).redis_url == expected
