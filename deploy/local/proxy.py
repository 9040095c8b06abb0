"""The proxy of a local run: Caddy, which serves both services under one origin."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local.environment import EVERYWHERE
from deploy.local.processes import MARK, Child
from deploy.local.readiness import accepts

CADDYFILE = Path(__file__).parents[1] / "Caddyfile"


def proxy(
    directory: Path, host: str, ports: Mapping[str, int], log: Path, public_url: str = "", trusted_proxies: str = ""
) -> Child:
    """Describe a proxy that listens on `host` and the port `proxy`. It writes only to `directory`.

    `public_url` is its public address. `trusted_proxies` are those in front of it, as in `CHATS_TRUSTED_PROXIES`.
    """
    environment = {
        "CHATS_HOST": host,
        "CHATS_PORT": str(ports["proxy"]),
        "CHATS_API_UPSTREAM": f"127.0.0.1:{ports['api']}",
        "CHATS_NOTIFICATIONS_UPSTREAM": f"127.0.0.1:{ports['notifications-api']}",
        **({"CHATS_PUBLIC_URL": public_url} if public_url else {}),
        "CHATS_TRUSTED_PROXIES": trusted_proxies.replace(",", " "),  # a Caddyfile separates values by spaces
        "HOME": str(directory),
        **{name: value for name, value in os.environ.items() if name == MARK},
    }
    return Child(
        name="proxy",
        command=[Path(sys.executable).parent / "caddy", "run", "--config", CADDYFILE, "--adapter", "caddyfile"],
        environment=environment,
        log=log,
        ready=accepts(EVERYWHERE.get(host, host), ports["proxy"]),
    )
