"""What `make run` prints when everything is up: where it is, and a first request for each side."""

from collections.abc import Mapping
from datetime import timedelta

from deploy.local.environment import shop_url
from shared.auth import issue_token, store_claims
from shared.settings import TokenSettings

WORKING_DAY = timedelta(hours=12)  # that a printed token is good for


def overview(settings: Mapping[str, str], ports: Mapping[str, int], services: Mapping[str, str]) -> str:
    """Return the table. `services` are the processes' readiness paths by name."""
    public = settings["CHATS_PUBLIC_URL"]
    places = {
        "Origin": public,
        "API docs": f"{public}/docs",
        "": f"{public}/api/v1/notifications/docs",
        "Flower": f"http://127.0.0.1:{ports['flower']}/ (CHATS_FLOWER_BASIC_AUTH in chats.env)",
    }
    if "mailbox" in ports:
        places["Mailbox"] = f"http://127.0.0.1:{ports['mailbox']}/"
    health = {name: f"http://127.0.0.1:{ports[name]}{path}" for name, path in services.items()}
    return "\n".join(
        (
            "",
            "Customer Chats is running.",
            "",
            *_way_in(ports),
            *_rows(places),
            "",
            "  Health",
            *_rows(health),
            "",
            *_requests(settings),
            f"  Data and logs  {settings['CHATS_DATA_DIR']}",
            "  Ctrl-C stops all of it; the data stays for the next run.",
            "",
        )
    )


def token(settings: Mapping[str, str], subject: str, role: str) -> str:
    """Sign a token as the store would, with the newest secret."""
    fields = {name.removeprefix("CHATS_").lower(): value for name, value in settings.items()}
    given = {name: value for name, value in fields.items() if name.startswith("auth_")}
    auth = TokenSettings(**given)  # type: ignore[arg-type] # text, as in the environment: the settings read it
    claims = store_claims(auth, subject, role, name=subject.title(), email=f"{subject}@example.com")
    return issue_token(auth, claims, WORKING_DAY)


def _way_in(ports: Mapping[str, int]) -> list[str]:
    if "shop" not in ports:
        return []
    return [
        *_rows({"Shop": f"{shop_url(ports)}/"}),
        "  Begin there: sign in as a customer, and beside it as an admin.",
        "",
    ]


def _rows(rows: Mapping[str, str]) -> list[str]:
    return [f"  {name:<18} {value}" for name, value in rows.items()]


def _requests(settings: Mapping[str, str]) -> list[str]:
    if "CHATS_AUTH_SECRET" not in settings:  # the store signs with a key that is not ours
        return []
    url = f"{settings['CHATS_PUBLIC_URL']}/api/v1"
    sides = (("anna", "customer", f"{url}/conversations"), ("sam", "admin", f"{url}/admin/conversations"))
    return [
        line
        for subject, role, path in sides
        for line in (
            f"  As the {role} {subject}:",
            f"curl -H 'Authorization: Bearer {token(settings, subject, role)}' '{path}'",
            "",
        )
    ]
