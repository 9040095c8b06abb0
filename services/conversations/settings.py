"""Settings of the conversations service."""

from pydantic import SecretStr

from shared.settings import DatabaseUrl, Days, Settings, TokenSettings


class StoreSettings(Settings):
    """What reaches the service's own database: enough for the relay, migrations and demo data.

    The log is kept for `retention_days`; for a reader that is behind longer, up to `retention_cap_days`.
    """

    conversations_database_url: DatabaseUrl
    retention_days: Days = 30
    retention_cap_days: Days = 90


class ApiSettings(StoreSettings, TokenSettings):
    """What the HTTP API needs besides."""

    feed_secret: SecretStr | None = None
