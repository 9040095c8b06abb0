"""Settings of the conversations service."""

from pydantic import SecretStr

from shared.settings import DatabaseUrl, Settings, TokenSettings


class StoreSettings(Settings):
    """What reaches the service's own database: enough for the relay, migrations and demo data."""

    conversations_database_url: DatabaseUrl


class ApiSettings(StoreSettings, TokenSettings):
    """What the HTTP API needs besides."""

    feed_secret: SecretStr | None = None
