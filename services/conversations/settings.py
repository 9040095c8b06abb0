"""Settings of the conversations service."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import DirectoryPath, Field, SecretStr

from shared.people import LocaleTag, ZoneName
from shared.settings import REDIS_SCHEMES, DatabaseUrl, Days, HttpUrl, RedisUrl, Settings, TokenSettings, WebUrl

Amount = Annotated[int, Field(ge=0, le=1_000_000)]


def _broker_if_redis(given: dict[str, Any]) -> str | None:
    broker = given.get("broker_url", "")  # missing when it was refused
    return broker if urlsplit(broker).scheme in REDIS_SCHEMES else None


class StoreSettings(Settings):
    """What reaches the service's own database: enough for the relay, migrations and demo data.

    The log is kept for `retention_days`; for a reader that is behind longer, up to `retention_cap_days`. Without
    a `redis_url` live streams look for news once a second.
    """

    conversations_database_url: DatabaseUrl = Field(repr=False)
    redis_url: RedisUrl | None = Field(default_factory=_broker_if_redis, repr=False)
    retention_days: Days = 30
    retention_cap_days: Days = 90


class MigrationSettings(StoreSettings):
    """What migrations need besides: who owns the tables, if not those who work with them."""

    conversations_owner_url: DatabaseUrl | None = Field(default=None, repr=False)


class ApiSettings(StoreSettings, TokenSettings):
    """What the HTTP API and the pages need besides. `locale` and `time_zone` are for readers who have none.

    Of the limits 0 means none. They are for each customer and each admin; sign-ins are limited for each user, and those
    that are refused for each address.
    """

    feed_secret: SecretStr | None = None
    login_url: HttpUrl | None = None
    store_url: WebUrl | None = None
    theme_dir: DirectoryPath | None = None
    locale: LocaleTag = "en"
    time_zone: ZoneName = "UTC"
    limit_messages_per_minute: Amount = 60
    limit_conversations_per_day: Amount = 50
    limit_admin_messages_per_minute: Amount = 600
    limit_sign_ins_per_minute: Amount = 120
    session_token_max_age_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300  # of a token that begins a session
