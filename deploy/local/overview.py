"""What `make run` prints when everything is running: URLs, and a first request for each role."""

from collections.abc import Mapping
from datetime import timedelta

from deploy.local.environment import shop_url
from shared.auth.tokens import issue_token, store_claims
from shared.settings import TokenSettings

TOKEN_LIFETIME = timedelta(hours=12)


def overview(
    settings: Mapping[str, str], ports: Mapping[str, int], services: Mapping[str, str], *, has_demo: bool
) -> str:
    """Return the text. `services` are the processes' readiness paths by name; with `has_demo` there are demo people."""
    public = settings["CHATS_PUBLIC_URL"]
    urls = {
        "Origin": public,
        "Conversations docs": f"{public}/docs",
        "Notifications docs": f"{public}/api/v1/notifications/docs",
        "Flower": f"http://127.0.0.1:{ports['flower']}/ (user and password: CHATS_FLOWER_BASIC_AUTH in chats.env)",
    }
    if "mailbox" in ports:
        urls["Mailbox"] = f"http://127.0.0.1:{ports['mailbox']}/"
    health = {name: f"http://127.0.0.1:{ports[name]}{path}" for name, path in services.items()}
    return "\n".join(
        (
            "",
            "Customer Chats is running.",
            "",
            *_shop(ports),
            *_rows(urls),
            "",
            "  Health checks",
            *_rows(health),
            "",
            *(_requests(settings) if has_demo else []),
            f"  Data and logs: {settings['CHATS_DATA_DIR']}",
            "  Press Ctrl-C to stop everything. The data is kept for the next run.",
            "",
        )
    )


def token(settings: Mapping[str, str], subject: str, role: str) -> str:
    """Sign a token as the store would, with the first secret."""
    fields = {name.removeprefix("CHATS_").lower(): value for name, value in settings.items()}
    auth_fields = {name: value for name, value in fields.items() if name.startswith("auth_")}
    auth = TokenSettings(**auth_fields)  # type: ignore[arg-type] # text, which the settings parse
    claims = store_claims(auth, subject, role, name=subject.title(), email=f"{subject}@example.com")
    return issue_token(auth, claims, TOKEN_LIFETIME)


def _shop(ports: Mapping[str, int]) -> list[str]:
    if "shop" not in ports:
        return []
    return [
        *_rows({"Shop": f"{shop_url(ports)}/"}),
        "  Start here: sign in as a customer, and in a private window as an admin.",
        "",
    ]


def _rows(rows: Mapping[str, str]) -> list[str]:
    return [f"  {name:<18} {value}" for name, value in rows.items()]


def _requests(settings: Mapping[str, str]) -> list[str]:
    if "CHATS_AUTH_SECRET" not in settings:  # only the identity provider can sign tokens
        return []
    url = f"{settings['CHATS_PUBLIC_URL']}/api/v1"
    callers = (("anna", "customer", f"{url}/conversations"), ("sam", "admin", f"{url}/admin/conversations"))
    return [
        line
        for subject, role, path in callers
        for line in (
            f"  Example request as {role} {subject}:",
            f"curl -H 'Authorization: Bearer {token(settings, subject, role)}' '{path}'",
            "",
        )
    ]
