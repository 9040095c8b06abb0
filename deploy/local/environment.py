"""The settings of a local run: those in the environment, and embedded servers for the rest."""

import os
import secrets
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from deploy.local.postgres import OWNER
from deploy.local.supervisor import StartError
from deploy.local.valkey import url as valkey_url

DATABASES = ("conversations", "notifications")
OWNER_URLS = {name: f"CHATS_{name.upper()}_OWNER_URL" for name in DATABASES}

# In the order of their preferred ports, which count up from the proxy's.
LISTENERS = (
    "proxy",
    "api",
    "notifications-api",
    "relay",
    "worker",
    "sweeper",
    "flower",
    "mailbox",
    "smtp",
    "postgres",
    "valkey",
    "shop",
    "limits",
    "jobs",
    "thumbnails",
    "inbound",
    "lmtp",
)

SECRETS = (
    "CHATS_AUTH_SECRET",
    "CHATS_FEED_SECRET",
    "CHATS_INBOUND_SECRET",
    "POSTGRES_PASSWORD",
    "CONVERSATIONS_PASSWORD",
    "NOTIFICATIONS_PASSWORD",
    "CONVERSATIONS_OWNER_PASSWORD",
    "NOTIFICATIONS_OWNER_PASSWORD",
    "VALKEY_PASSWORD",
    "SHOP_SECRET",
    "FLOWER_PASSWORD",
)

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - the address to show for it


def keep_secrets(path: Path) -> dict[str, str]:
    """Return this data directory's secrets. The first run makes them, in a file that only its owner can read."""
    kept = dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}
    complete = {name: kept.get(name) or secrets.token_hex(32) for name in SECRETS}
    if complete != kept:
        write_private(path, complete)
    return complete


def write_private(path: Path, values: Mapping[str, str]) -> None:
    """Write `NAME=value` lines that a shell can source, in a file that only its owner can read."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))
    new.replace(path)


def _is_given(name: str) -> bool:
    """Return whether the environment sets a variable. An empty value counts as not set."""
    return bool(os.environ.get(name))


def embedded_parts() -> set[str]:
    """Return the servers to start: those that the environment does not replace."""
    replaced_by = {
        "postgres": [f"CHATS_{name.upper()}_DATABASE_URL" for name in DATABASES],
        "valkey": ["CHATS_BROKER_URL"],
        "limits": ["CHATS_REDIS_URL"],
        "mailbox": ["CHATS_SMTP_URL"],
    }
    return {part for part, names in replaced_by.items() if not all(map(_is_given, names))}


def has_demo() -> bool:
    """Return whether to load the demo data."""
    return os.environ.get("CHATS_DEMO") != "0"


def has_shop() -> bool:
    """Return whether to start the example shop: with demo data, and where its tokens are accepted."""
    signs = _is_given("CHATS_AUTH_SECRET") or not _is_given("CHATS_AUTH_JWKS_URL")
    claims = {"CHATS_AUTH_ROLE_CLAIM": "role", "CHATS_AUTH_AUDIENCE_CLAIM": "aud"}  # as the shop's tokens name them
    is_understood = all((os.environ.get(name) or claim) == claim for name, claim in claims.items())
    return signs and is_understood and has_demo()


def shop_url(ports: Mapping[str, int]) -> str:
    """Return the shop's origin. The shop asks for no password, so it always listens on loopback."""
    return os.environ.get("SHOP_URL") or origin("127.0.0.1", ports["shop"])


def settings(data: Path, host: str, ports: Mapping[str, int], kept: Mapping[str, str]) -> dict[str, str]:
    """Return this run's `CHATS_*` settings: those in the environment, and embedded servers for the rest."""
    defaults = {
        "CHATS_HOST": host,
        "CHATS_PORT": str(ports["proxy"]),
        **{f"CHATS_{name.upper()}_DATABASE_URL": _database_url(name, name, ports, kept) for name in DATABASES},
        "CHATS_WEBHOOK_PRIVATE_HOSTS": "127.0.0.1,localhost",  # to try webhooks on this machine
        "CHATS_BROKER_URL": valkey_url(ports["valkey"], kept["VALKEY_PASSWORD"], 0),
        # Separate from the broker, so that rate limits work while the broker is full.
        "CHATS_REDIS_URL": valkey_url(ports["limits"], kept["VALKEY_PASSWORD"], 0),
        "CHATS_SMTP_URL": f"smtp://127.0.0.1:{ports['smtp']}",
        "CHATS_CONVERSATIONS_URL": f"http://127.0.0.1:{ports['api']}",
        "CHATS_NOTIFICATIONS_URL": f"http://127.0.0.1:{ports['notifications-api']}",
        "CHATS_DRAIN_SECONDS": "0",  # no load balancer here
        "CHATS_PUBLIC_URL": origin(host, ports["proxy"]),
        "CHATS_STORE_NAME": "Demo Store",
        "CHATS_EMAIL_FROM": "Demo Store <support@demo-store.example>",
        "CHATS_AUTH_SECRET": kept["CHATS_AUTH_SECRET"],  # signs sessions, even if a provider signs the tokens
        "CHATS_FEED_SECRET": kept["CHATS_FEED_SECRET"],
        "CHATS_INBOUND_SECRET": kept["CHATS_INBOUND_SECRET"],
        "CHATS_INBOUND_LISTEN": f"lmtp://127.0.0.1:{ports['lmtp']}",
        "CHATS_FLOWER_BASIC_AUTH": f"flower:{kept['FLOWER_PASSWORD']}",
    }
    if "mailbox" in embedded_parts():  # it delivers replies; a real mail server does so for a real domain only
        defaults["CHATS_INBOUND_DOMAIN"] = "replies.demo-store.example"
        defaults["CHATS_INBOUND_ADDRESS"] = "support@demo-store.example"
        defaults["CHATS_INBOUND_AUTHSERV_ID"] = "mailbox.demo-store.example"
    given = {
        name: value for name, value in without_owner_urls(os.environ).items() if name.startswith("CHATS_") and value
    }
    return {**defaults, **given, **_shop_settings(ports, given), **_proxies(given), "CHATS_DATA_DIR": str(data)}


def without_owner_urls(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the settings that only migrations may read."""
    return {name: value for name, value in environment.items() if name not in OWNER_URLS.values()}


def owner_urls(ports: Mapping[str, int], kept: Mapping[str, str]) -> dict[str, str]:
    """Return the URLs by which migrations, and no other process, connect as the databases' owners."""
    defaults = {
        owner_url: _database_url(name, f"{name}{OWNER}", ports, kept)
        for name, owner_url in OWNER_URLS.items()
        if not _is_given(f"CHATS_{name.upper()}_DATABASE_URL")
    }
    return defaults | {name: os.environ[name] for name in OWNER_URLS.values() if _is_given(name)}


def role_passwords(kept: Mapping[str, str]) -> dict[str, str]:
    """Return the passwords of all roles of the embedded PostgreSQL except the superuser."""
    roles = [f"{name}{suffix}" for name in DATABASES for suffix in ("", OWNER)]
    return {role: kept[f"{role.upper()}_PASSWORD"] for role in roles}


def origin(host: str, port: int) -> str:
    """Return the URL at which a browser on this machine reaches a listening address."""
    name = EVERYWHERE.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def require_kept_password(data: Path, secrets_file: Path) -> None:
    """Raise `StartError` if an earlier run's database exists without its password."""
    if (data / "postgres" / "data").exists() and not secrets_file.exists():
        raise StartError(
            f"{secrets_file}, which holds the password of the database in {data / 'postgres'}, is missing: "
            f"restore the file, or delete {data} to start with no data."
        )


def chosen_port(text: str) -> int:
    """Read CHATS_PORT, or raise `StartError`."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**16):
        raise StartError(f"CHATS_PORT must be a number from 1 to 65535, not {text!r}.")
    return int(text)


def preferred_ports(first: int) -> Iterable[int]:
    """Return the preferred port of each of `LISTENERS`."""
    return range(first, first + len(LISTENERS))


def _proxies(given: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies that the services trust: our own on this machine, and those in front of it."""
    in_front = given.get("CHATS_TRUSTED_PROXIES")
    return {"CHATS_TRUSTED_PROXIES": f"127.0.0.1,::1,{in_front}"} if in_front else {}


def _shop_settings(ports: Mapping[str, int], given: Mapping[str, str]) -> dict[str, str]:
    if not has_shop():
        return {}
    shop = shop_url(ports)
    origins = [shop, *filter(None, [given.get("CHATS_STORE_ORIGINS")])]  # the shop signs people in, too
    defaults = {"CHATS_LOGIN_URL": f"{shop}/login", "CHATS_STORE_URL": f"{shop}/"}
    return {name: given.get(name, value) for name, value in defaults.items()} | {
        "CHATS_STORE_ORIGINS": ",".join(origins)
    }


def _database_url(name: str, role: str, ports: Mapping[str, int], kept: Mapping[str, str]) -> str:
    return f"postgresql://{role}:{kept[f'{role.upper()}_PASSWORD']}@127.0.0.1:{ports['postgres']}/{name}"
