"""Settings of the conversations service."""

import os
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BeforeValidator, DirectoryPath, Field, SecretStr
from pydantic_settings import NoDecode

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
    split_commas,
)

MIN_CLOSED_RETENTION = 7  # days; emails about a conversation are retried for 3

Amount = Annotated[int, Field(ge=0, le=1_000_000)]


def _check_files_url(url: str) -> str:
    """Return a valid URL of a file store. Raises `ValueError` for others."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL must contain no user or password: set CHATS_FILES_ACCESS_KEY and _SECRET_KEY")
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/") and not parts.query:
        return url
    parameters = parse_qs(parts.query, keep_blank_values=True)
    if parts.scheme == "s3" and parts.netloc and not parts.fragment and parameters.keys() <= {"endpoint", "region"}:
        return url
    raise ValueError("the URL must look like file:///path or s3://bucket/prefix?endpoint=https://…&region=…")


def _scan_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "tcp" and parts.hostname and parts.port and not parts.path.strip("/"):
        return url
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return url
    raise ValueError("the URL must look like tcp://host:3310 or unix:///run/clamd.sock")


def _broker_if_redis(values: dict[str, Any]) -> str | None:
    broker = values.get("broker_url", "")  # missing if it failed validation
    return broker if urlsplit(broker).scheme in REDIS_SCHEMES else None


def _closed_retention(days: float) -> float:
    if not days >= MIN_CLOSED_RETENTION:
        raise ValueError(
            f"must be {MIN_CLOSED_RETENTION} days or more, because nothing brings deleted conversations back;"
            " leave it empty to keep them"
        )
    return days


class StoreSettings(Settings):
    """Settings of every process that uses the service's database.

    Events are kept for `retention_days`, and up to `retention_cap_days` while a reader still needs them. Without a
    `redis_url` live streams poll the log once a second. The jobs delete conversations that have been closed for
    `closed_retention_days`; without it they are kept.
    """

    conversations_database_url: DatabaseUrl = Field(repr=False)
    redis_url: RedisUrl | None = Field(default_factory=_broker_if_redis, repr=False)
    retention_days: Days = 30
    retention_cap_days: Days = 90
    closed_retention_days: Annotated[float, Field(le=36_500), AfterValidator(_closed_retention)] | None = None


class MigrationSettings(StoreSettings):
    """Settings of the migrations: the owner of the tables connects by `conversations_owner_url` if it is set."""

    conversations_owner_url: DatabaseUrl | None = Field(default=None, repr=False)


def _default_files_url() -> str:
    return (Path(os.environ.get("CHATS_DATA_DIR") or ".data").absolute() / "files").as_uri()


class FileSettings(StoreSettings):
    """Settings of every process that uses files. Without a `scan_url` files are not scanned."""

    files_url: Annotated[str, AfterValidator(_check_files_url)] = Field(default_factory=_default_files_url)
    files_access_key: str | None = Field(default=None, repr=False)
    files_secret_key: SecretStr | None = None
    scan_url: Annotated[str, AfterValidator(_scan_url)] | None = None


def _private_host(value: str) -> str:
    """Return a host name or an address, as it stands in URLs."""
    if not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:]+", value):
        raise ValueError("a host must be a name or an address, such as hooks.internal or 10.0.0.7, without a port")
    return value.rstrip(".")


_Host = Annotated[str, BeforeValidator(str.lower), AfterValidator(_private_host)]


def _retries(seconds: tuple[float, ...]) -> tuple[float, ...]:
    if seconds[0] != 0:
        raise ValueError("the first value must be 0: the first attempt is made at once")
    return seconds


_Retries = Annotated[
    tuple[Annotated[float, Field(ge=0, le=2_592_000)], ...],
    Field(min_length=1, max_length=30),
    AfterValidator(_retries),
]


class WebhookSettings(StoreSettings):
    """Settings of processes that know webhooks: the hosts of private networks that they may reach."""

    webhook_private_hosts: Annotated[frozenset[_Host], NoDecode, BeforeValidator(split_commas)] = frozenset()


class NotificationsSettings(StoreSettings):
    """Settings of processes that read from the notifications API's own port, if the secret is set."""

    notifications_url: WebUrl = "http://127.0.0.1:8002"
    feed_secret: HeaderSecret | None = None


class ExportSettings(FileSettings, NotificationsSettings):
    """Settings of the export of a person's data. `locale` and `time_zone` are for people who have none."""

    store_name: str = "Customer support"
    locale: LocaleTag = "en"
    time_zone: ZoneName = "UTC"


class JobsSettings(FileSettings, WebhookSettings, NotificationsSettings):
    """Settings of the jobs. Conversations that wait for their customer longer than `auto_resolve_days` are resolved.

    0 means never. A month of the audit is dropped when all of it is older than `audit_days`. The status of emails is
    read from the notifications service.
    """

    auto_resolve_days: Annotated[float, Field(ge=0, le=3650)] = 0
    # Before each attempt at a delivery of a webhook, after the one before.
    webhook_retry_seconds: Annotated[_Retries, NoDecode, BeforeValidator(split_commas)] = (
        0,
        5,
        300,
        1800,
        7200,
        18_000,
        36_000,
        36_000,
    )
    audit_days: Annotated[float, Field(ge=30, le=36_500)] = 365  # the database drops nothing younger than 30 days


class ApiSettings(ExportSettings, WebhookSettings, TokenSettings):
    """Settings of the HTTP API and the pages.

    `locale` and `time_zone` are for pages of users who have none, and whose browsers name none. With `assign_on_reply`
    an admin who replies to an unassigned conversation becomes its assignee.
    A limit of 0 means no limit. Limits apply per customer or admin, to sign-ins per user, and to failed sign-ins per
    address.
    """

    inbound_secret: HeaderSecret | None = None  # with which the other service posts what came by email
    login_url: HttpUrl | None = None
    store_url: WebUrl | None = None
    theme_dir: DirectoryPath | None = None
    assign_on_reply: bool = True
    limit_messages_per_minute: Amount = 60
    limit_conversations_per_day: Amount = 50
    limit_admin_messages_per_minute: Amount = 600
    limit_sign_ins_per_minute: Amount = 120
    limit_attachment_bytes_per_day: Annotated[int, Field(ge=0)] = 100 * 2**20
    attachment_max_bytes: Annotated[int, Field(ge=1, le=2**30)] = 20 * 2**20
    session_token_max_age_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300  # of the token that starts a session
