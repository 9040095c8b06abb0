"""Settings of the conversations service."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import DirectoryPath, Field

from shared.people import LocaleTag, ZoneName
from shared.settings import (
    REDIS_SCHEMES,
    DatabaseUrl,
    Days,
    HeaderSecret,
    HttpUrl,
    RedisUrl,
    Settings,
    TokenSettings,
    WebUrl,
)

Amount = Annotated[int, Field(ge=0, le=1_000_000)]


def _broker_if_redis(values: dict[str, Any]) -> str | None:
    broker = values.get("broker_url", "")  # missing if it failed validation
    return broker if urlsplit(broker).scheme in REDIS_SCHEMES else None


class StoreSettings(Settings):
    """Settings of every process that uses the service's database.

    Events are kept for `retention_days`, and up to `retention_cap_days` while a reader still needs them. Without a
    `redis_url` live streams poll the log once a second.
    """

    conversations_database_url: DatabaseUrl = Field(repr=False)
    redis_url: RedisUrl | None = Field(default_factory=_broker_if_redis, repr=False)
    retention_days: Days = 30
    retention_cap_days: Days = 90


class MigrationSettings(StoreSettings):
    """Settings of the migrations: the owner of the tables connects by `conversations_owner_url` if it is set."""

    conversations_owner_url: DatabaseUrl | None = Field(default=None, repr=False)


class ApiSettings(StoreSettings, TokenSettings):
    """Settings of the HTTP API and the pages.

    `locale` and `time_zone` are for pages of users who have none, and whose browsers name none. With `assign_on_reply`
    an admin who replies to an unassigned conversation becomes its assignee.
    A limit of 0 means no limit. Limits apply per customer or admin, to sign-ins per user, and to failed sign-ins per
    address.
    """

    feed_secret: HeaderSecret | None = None
    login_url: HttpUrl | None = None
    store_url: WebUrl | None = None
    theme_dir: DirectoryPath | None = None
    locale: LocaleTag = "en"
    time_zone: ZoneName = "UTC"
    assign_on_reply: bool = True
    limit_messages_per_minute: Amount = 60
    limit_conversations_per_day: Amount = 50
    limit_admin_messages_per_minute: Amount = 600
    limit_sign_ins_per_minute: Amount = 120
    session_token_max_age_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300  # of the token that starts a session
