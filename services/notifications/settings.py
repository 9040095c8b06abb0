"""Settings of the notifications service."""

from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from services.notifications.mail.server import parse_smtp_url
from shared.people import LocaleTag, ZoneName
from shared.settings import DatabaseUrl, Settings, TokenSettings, split_commas


class StoreSettings(Settings):
    """What reaches the service's own database, and keeps its mails in step with it."""

    notifications_database_url: DatabaseUrl
    email_delay_seconds: Annotated[float, Field(ge=0)] = 30
    support_email_delay_seconds: Annotated[float, Field(ge=0)] = 300


class ApiSettings(StoreSettings, TokenSettings):
    """What the HTTP API needs besides."""


class MailSettings(StoreSettings):
    """What handling events and sending mail need: the worker and the sweeper."""

    conversations_url: str = "http://127.0.0.1:8001"
    feed_secret: SecretStr | None = None
    public_url: str = "http://127.0.0.1:8000"
    smtp_url: SecretStr | None = None
    email_from: str = "support@localhost"
    email_reply_to: str | None = None
    time_zone: ZoneName = "UTC"
    locale: LocaleTag = "en"
    email_only_to: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_commas)] = ()
    email_retry_seconds: Annotated[tuple[int, ...], NoDecode, BeforeValidator(split_commas), Field(min_length=1)] = (
        60,
        300,
        900,
        1800,
        3600,
        7200,
    )
    email_uncertain_seconds: Annotated[int, Field(ge=0)] = 900
    support_email: str | None = None

    @field_validator("smtp_url")
    @classmethod
    def _known_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parse_smtp_url(url.get_secret_value())
        return url
