"""Common settings of both services. Each process builds its own settings class once, at the start."""

import re
from enum import StrEnum
from ipaddress import ip_network
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from shared.database_url import INVALID_URL, read_database_url
from shared.tls import check_verified

MIN_SECRET_BYTES = 32
MAX_PORT = 65_535
_ORIGIN = re.compile(r"(?P<site>(?P<scheme>https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\]))(:(?P<port>[0-9]{1,5}))?")
REDIS_SCHEMES = ("redis", "rediss", "redis+socket")
BROKER_SCHEMES = (*REDIS_SCHEMES, "amqp", "amqps")


S = TypeVar("S", bound="Settings")


class Role(StrEnum):
    """The role of a caller."""

    CUSTOMER = "customer"
    ADMIN = "admin"
    STORE = "store"


class SettingsError(Exception):
    """Invalid settings or arguments. `str()` is one line for the operator; it contains no secret."""


def _one_of_schemes(*schemes: str) -> AfterValidator:
    """Accept only URLs with one of these schemes. Errors do not repeat the URL, which may contain a password."""

    def check(url: str) -> str:
        try:
            scheme, _ = urlsplit(url).scheme, urlsplit(url).port
        except ValueError:  # the error's text may contain a part of the password
            raise ValueError(INVALID_URL) from None
        if scheme == "sentinel":
            raise ValueError("a Sentinel URL is not supported: use an address that always leads to the primary")
        if scheme not in schemes:
            raise ValueError(f"the URL scheme must be one of {', '.join(schemes)}")
        return url

    return AfterValidator(check)


def _database_url(url: str) -> str:
    read_database_url(url)
    return url


def _verified_url(url: str) -> str:
    check_verified(url)
    return url


def split_commas(value: object) -> object:
    """Split a list that is written as `a,b` in the environment."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"a secret must have at least {MIN_SECRET_BYTES} bytes")
    return secret


def _origin(value: str) -> str:
    """Return an origin as browsers write it: in lower case, and without its scheme's default port."""
    match = _ORIGIN.fullmatch(value.lower())
    if match is None or int(match["port"] or 0) > MAX_PORT:
        raise ValueError("an origin must look like https://store.example: no path, international host names as xn--")
    is_default_port = match["port"] == {"http": "80", "https": "443"}[match["scheme"]]
    return match["site"] if match["port"] is None or is_default_port else match[0]


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    is_clean = value.isprintable() and " " not in value
    if parts.username is not None:  # it would replace our own Authorization header, and appear where the URL does
        raise ValueError("the URL must contain no user or password")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment or not is_clean or parts.port == 0:
        raise ValueError("the URL must look like https://id.example/keys")
    return value


def _web_url(value: str) -> str:
    try:
        if not urlsplit(_http_url(value)).query:
            return value
    except ValueError:
        pass
    raise ValueError("the URL must look like https://store.example, optionally with a path")


def _header_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise ValueError("the secret must be printable ASCII, without spaces around it")
    return secret


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError("a proxy must be an address or network, such as 127.0.0.1 or 172.16.0.0/12") from None


# Fields of these types need `repr=False`, because they may contain a password.
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
BrokerUrl = Annotated[str, _one_of_schemes(*BROKER_SCHEMES), AfterValidator(_verified_url)]
RedisUrl = Annotated[str, _one_of_schemes(*REDIS_SCHEMES), AfterValidator(_verified_url)]
Secret = Annotated[SecretStr, AfterValidator(_long_enough)]
HeaderSecret = Annotated[SecretStr, AfterValidator(_header_secret)]
Origin = Annotated[str, AfterValidator(_origin)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
WebUrl = Annotated[str, AfterValidator(_web_url)]
Network = Annotated[str, AfterValidator(_network)]
Days = Annotated[float, Field(gt=0, le=3650)]


class Settings(BaseSettings):
    """Settings of all processes, from `CHATS_*` environment variables."""

    model_config = SettingsConfigDict(env_prefix="CHATS_", frozen=True, extra="ignore", env_ignore_empty=True)

    store_name: str = "Customer support"
    broker_url: BrokerUrl = Field(default="redis://127.0.0.1:6379/0", repr=False)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    traces_url: HttpUrl | None = None  # a collector of OpenTelemetry, OTLP over HTTP
    traces_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments and the environment alone: looking for files of settings would take as long again."""
        return init_settings, env_settings


class TokenSettings(Settings):
    """Settings of a process that verifies tokens."""

    auth_secret: Annotated[list[Secret], NoDecode] = Field(default_factory=list, max_length=2)
    auth_jwks_url: HttpUrl | None = None
    auth_audience: Annotated[list[str], NoDecode] = Field(default_factory=lambda: ["chats"], min_length=1)
    auth_audience_claim: str = "aud"
    auth_issuer: str | None = None
    auth_role_claim: str = "role"
    auth_role_map: Annotated[dict[str, Role], NoDecode] = Field(default_factory=dict)
    auth_default_role: Role | None = None
    auth_permissions_claim: str | None = None
    feed_secret: HeaderSecret | None = None  # with which the other service reads the event log
    store_origins: Annotated[list[Origin], NoDecode] = Field(default_factory=list)
    public_url: WebUrl = "http://127.0.0.1:8000"
    docs: bool = True
    drain_seconds: Annotated[float, Field(ge=0, le=15)] = 5  # after SIGTERM, until the socket closes
    # Proxies trusted to set X-Forwarded-For and X-Forwarded-Proto. Other clients could claim any address.
    trusted_proxies: Annotated[list[Network], NoDecode] = Field(default_factory=lambda: ["127.0.0.1", "::1"])

    @model_validator(mode="before")
    @classmethod
    def _read_lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in {"auth_audience", "auth_secret", "store_origins", "trusted_proxies"} & values.keys():
            values[name] = split_commas(values[name])
        roles = values.get("auth_role_map")
        if isinstance(roles, str):
            pairs = [part.split("=", 1) for part in roles.split(",") if part.strip()]
            if any(len(pair) < 2 for pair in pairs):  # noqa: PLR2004 - a pair has two parts
                raise ValueError("CHATS_AUTH_ROLE_MAP must look like name=role,name=role")
            values["auth_role_map"] = {claim.strip(): role.strip() for claim, role in pairs}
        return values

    @model_validator(mode="after")
    def _can_verify(self) -> Self:
        if not self.auth_secret and not self.auth_jwks_url:
            text = "tokens cannot be verified: set CHATS_AUTH_SECRET, CHATS_AUTH_JWKS_URL, or both"
            raise PydanticCustomError("missing", text)
        return self


def read_settings(kind: type[S]) -> S:
    """Build settings from the environment, or raise `SettingsError` with all errors in one line."""
    try:
        return kind()
    except ValidationError as error:
        raise SettingsError("; ".join(text for text, _ in _errors(kind, error))) from None


def settings_errors(kind: type[Settings]) -> list[tuple[str, bool]]:
    """Return what is wrong with the settings in the environment, and whether each is only missing."""
    try:
        kind()
    except ValidationError as error:
        return _errors(kind, error)
    return []


def _errors(kind: type[Settings], error: ValidationError) -> list[tuple[str, bool]]:
    # Ignore defaults that could not be derived from other, invalid settings.
    errors = [entry for entry in error.errors() if entry["type"] != "default_factory_not_called"]
    return [(_describe(kind, entry), entry["type"] == "missing") for entry in errors]


def _describe(kind: type[Settings], error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = f"{kind.model_config['env_prefix']}{str(error['loc'][0]).upper()}"
    limits = error.get("ctx", {})
    if error["type"] == "missing":
        return f"{name} must be set"
    if error["type"] == "too_long":
        return f"{name}: must have at most {limits['max_length']} values, separated by commas"
    if error["type"] == "too_short":
        return f"{name}: must not be empty"
    return f"{name}: {message[:1].lower()}{message[1:]}"
