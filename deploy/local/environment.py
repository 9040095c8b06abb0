"""The settings of a local run: what is given in the environment, and embedded parts for the rest."""

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

# In the order of the ports they prefer, after the proxy's.
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
)

SECRETS = (
    "CHATS_AUTH_SECRET",
    "CHATS_FEED_SECRET",
    "POSTGRES_PASSWORD",
    "CONVERSATIONS_PASSWORD",
    "NOTIFICATIONS_PASSWORD",
    "CONVERSATIONS_OWNER_PASSWORD",
    "NOTIFICATIONS_OWNER_PASSWORD",
    "VALKEY_PASSWORD",
    "SHOP_SECRET",
    "FLOWER_PASSWORD",
)

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what to call it when it is chosen


def keep_secrets(path: Path) -> dict[str, str]:
    """Return this data directory's secrets: kept from the first run on, readable by their owner only."""
    kept = dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}
    complete = {name: kept.get(name) or secrets.token_hex(32) for name in SECRETS}
    if complete != kept:
        write_private(path, complete)
    return complete


def write_private(path: Path, values: Mapping[str, str]) -> None:
    """Write `NAME=value` lines that a shell can source, readable by their owner only."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))
    new.replace(path)


def is_given(name: str) -> bool:
    """Tell whether the environment gives a setting; an empty one counts as not given."""
    return bool(os.environ.get(name))


def embedded_parts() -> set[str]:
    """Return which servers are ours to start: those that the environment does not replace."""
    replaced_by = {
        "postgres": [f"CHATS_{name.upper()}_DATABASE_URL" for name in DATABASES],
        "valkey": ["CHATS_BROKER_URL"],
        "limits": ["CHATS_REDIS_URL"],
        "mailbox": ["CHATS_SMTP_URL"],
    }
    return {part for part, names in replaced_by.items() if not all(map(is_given, names))}


def has_shop() -> bool:
    """Tell whether the example shop is the way in: with the demo, and where its tokens count."""
    signs = is_given("CHATS_AUTH_SECRET") or not is_given("CHATS_AUTH_JWKS_URL")
    claims = {"CHATS_AUTH_ROLE_CLAIM": "role", "CHATS_AUTH_AUDIENCE_CLAIM": "aud"}  # as the shop names them
    is_understood = all((os.environ.get(name) or claim) == claim for name, claim in claims.items())
    return signs and is_understood and os.environ.get("CHATS_DEMO") != "0"


def shop_url(ports: Mapping[str, int]) -> str:
    """Return the shop's origin. It asks for no password, so it stays on loopback wherever the rest listens."""
    return os.environ.get("SHOP_URL") or origin("127.0.0.1", ports["shop"])


def settings(data: Path, host: str, ports: Mapping[str, int], kept: Mapping[str, str]) -> dict[str, str]:
    """Return this run's `CHATS_*` settings: the given ones, and the embedded parts for the rest."""
    defaults = {
        "CHATS_HOST": host,
        "CHATS_PORT": str(ports["proxy"]),
        **{f"CHATS_{name.upper()}_DATABASE_URL": _database_url(name, name, ports, kept) for name in DATABASES},
        "CHATS_BROKER_URL": valkey_url(ports["valkey"], kept["VALKEY_PASSWORD"], 0),
        # Not the broker's: limits hold also while that is full.
        "CHATS_REDIS_URL": valkey_url(ports["limits"], kept["VALKEY_PASSWORD"], 0),
        "CHATS_SMTP_URL": f"smtp://127.0.0.1:{ports['smtp']}",
        "CHATS_CONVERSATIONS_URL": f"http://127.0.0.1:{ports['api']}",
        "CHATS_DRAIN_SECONDS": "0",  # nothing balances over several copies here
        "CHATS_PUBLIC_URL": origin(host, ports["proxy"]),
        "CHATS_STORE_NAME": "Demo Store",
        "CHATS_EMAIL_FROM": "Demo Store <support@demo-store.example>",
        "CHATS_AUTH_SECRET": kept["CHATS_AUTH_SECRET"],  # signs sessions, also where a provider signs the tokens
        "CHATS_FEED_SECRET": kept["CHATS_FEED_SECRET"],
        "CHATS_FLOWER_BASIC_AUTH": f"flower:{kept['FLOWER_PASSWORD']}",
    }
    given = {name: value for name, value in for_all(os.environ).items() if name.startswith("CHATS_") and value}
    return {**defaults, **given, **_shop_settings(ports, given), **_proxies(given), "CHATS_DATA_DIR": str(data)}


def for_all(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what is for migrations only."""
    return {name: value for name, value in environment.items() if name not in OWNER_URLS.values()}


def owner_urls(ports: Mapping[str, int], kept: Mapping[str, str]) -> dict[str, str]:
    """Return how migrations reach the databases as their owners, the settings that nobody else gets."""
    defaults = {
        owner_url: _database_url(name, f"{name}{OWNER}", ports, kept)
        for name, owner_url in OWNER_URLS.items()
        if not is_given(f"CHATS_{name.upper()}_DATABASE_URL")
    }
    return defaults | {name: os.environ[name] for name in OWNER_URLS.values() if is_given(name)}


def role_passwords(kept: Mapping[str, str]) -> dict[str, str]:
    """Return the passwords of all roles of the embedded PostgreSQL but its superuser's."""
    roles = [f"{name}{suffix}" for name in DATABASES for suffix in ("", OWNER)]
    return {role: kept[f"{role.upper()}_PASSWORD"] for role in roles}


def origin(host: str, port: int) -> str:
    """Return the URL at which a browser on this machine reaches an address that is listened on."""
    name = EVERYWHERE.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def require_kept_password(data: Path, secrets_file: Path) -> None:
    """Raise `StartError` when the database of an earlier run is there and its password is not."""
    if (data / "postgres" / "data").exists() and not secrets_file.exists():
        raise StartError(
            f"{secrets_file} is gone, and with it the password of the database in {data / 'postgres'}: "
            f"put the file back, or remove {data} to begin anew."
        )


def chosen_port(text: str) -> int:
    """Read CHATS_PORT, or raise `StartError`."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**16):
        raise StartError(f"CHATS_PORT must be a number from 1 to 65535, it is {text!r}.")
    return int(text)


def preferred_ports(first: int) -> Iterable[int]:
    """Return the port each of `LISTENERS` would like."""
    return range(first, first + len(LISTENERS))


def _proxies(given: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies that the services trust: our own, which is on this machine, beside those in front of it."""
    in_front = given.get("CHATS_TRUSTED_PROXIES")
    return {"CHATS_TRUSTED_PROXIES": f"127.0.0.1,::1,{in_front}"} if in_front else {}


def _shop_settings(ports: Mapping[str, int], given: Mapping[str, str]) -> dict[str, str]:
    if not has_shop():
        return {}
    shop = shop_url(ports)
    origins = [shop, *filter(None, [given.get("CHATS_STORE_ORIGINS")])]  # beside a store's own: it signs people in, too
    defaults = {"CHATS_LOGIN_URL": f"{shop}/login", "CHATS_STORE_URL": f"{shop}/"}
    return {name: given.get(name, value) for name, value in defaults.items()} | {
        "CHATS_STORE_ORIGINS": ",".join(origins)
    }


def _database_url(name: str, role: str, ports: Mapping[str, int], kept: Mapping[str, str]) -> str:
    return f"postgresql://{role}:{kept[f'{role.upper()}_PASSWORD']}@127.0.0.1:{ports['postgres']}/{name}"
