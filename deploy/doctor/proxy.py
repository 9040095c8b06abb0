"""Check the public origin through the proxy: what it forwards, whom the API sees as the client, who answers."""

import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

import httpx2
from pydantic import TypeAdapter

from deploy.doctor.findings import Finding, fault, note, ok, warning
from deploy.doctor.settings import why_unchecked
from services.conversations.api.schemas.store import ConnectionOut
from shared.auth.tokens import issue_token, store_claims
from shared.database.clock_skew import MAX_SKEW
from shared.settings import Role, TokenSettings, read_settings

TIMEOUT: Final = 10.0  # seconds
CONNECTIONS: Final = 20
CLAIMED: Final = "203.0.113.7"  # an address for documentation (RFC 5737), which no client has
_PRIVATE: Final = ("/metrics", "/internal/events")
_CONNECTION: Final = "/api/v1/store/connection"
_TOKEN: Final = "CHATS_DOCTOR_TOKEN"  # noqa: S105 - the name of a variable
_OURS: Final = "customer-chats"  # in each error of our APIs
_CONNECTION_OUT: Final = TypeAdapter(ConnectionOut)


async def check() -> Sequence[Finding]:
    """Call both services through the public origin."""
    if unchecked := why_unchecked(TokenSettings):
        return [unchecked]
    settings = read_settings(TokenSettings)
    async with httpx2.AsyncClient(base_url=settings.public_url, timeout=TIMEOUT) as client:
        try:
            findings = [await _of_api(client), await _of_notifications(client)]
            findings += [finding for path in _PRIVATE if (finding := await _of_private(client, path))]
        except httpx2.HTTPError as error:
            text = f"{settings.public_url} cannot be reached: {_describe(error)}."
            return [fault(text, "Check CHATS_PUBLIC_URL, the proxy, its certificate, and DNS.")]
    token = _token(settings)
    if token is None:
        text = f"Client addresses and copies were not checked: there is no CHATS_AUTH_SECRET, and no {_TOKEN}."
        return [*findings, note(text, f"Put a token of your identity provider with the role store into {_TOKEN}.")]
    if not (token.isascii() and token.isprintable()):
        text = f"{_TOKEN} contains line breaks or other characters that no token has."
        return [*findings, fault(text, "Put only the token into it.")]
    try:
        return [*findings, *await _of_connections(settings, token)]
    except httpx2.HTTPError as error:
        return [*findings, fault(f"{_CONNECTION} cannot be read: {_describe(error)}.", "Check the proxy.")]


def _describe(error: httpx2.HTTPError) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _detail(response: httpx2.Response) -> str:
    """Return the detail of an error of ours, else the beginning of the body."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


def _token(settings: TokenSettings) -> str | None:
    if token := os.environ.get(_TOKEN):
        return token
    if not settings.auth_secret:
        return None
    return issue_token(settings, store_claims(settings, "chats-doctor", Role.STORE), timedelta(minutes=5))


async def _of_api(client: httpx2.AsyncClient) -> Finding:
    response = await client.get("/readyz")
    if response.status_code != httpx2.codes.OK or '"ready"' not in response.text:
        text = f"/readyz answers with status {response.status_code}: {response.text[:200]}"
        return fault(text, "Start `chats api`, and let the proxy forward to it all paths in deploy/Caddyfile.")
    skew = abs(parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()) if _has_date(response) else 0
    if skew > MAX_SKEW:
        text = f"The clock of {client.base_url.host} is {skew:.0f} s apart from this machine's."
        return fault(text, "Synchronize both clocks by NTP: otherwise tokens are refused.")
    return ok(f"{client.base_url} leads to the API.")


def _has_date(response: httpx2.Response) -> bool:
    try:
        parsedate_to_datetime(response.headers.get("Date", ""))
    except ValueError:
        return False
    return True


async def _of_notifications(client: httpx2.AsyncClient) -> Finding:
    response = await client.get("/api/v1/notifications/unread")
    if response.status_code == httpx2.codes.UNAUTHORIZED and _OURS in response.text:  # it asks for a token
        return ok("/api/v1/notifications leads to the notifications API.")
    text = f"/api/v1/notifications answers with status {response.status_code}."
    return fault(text, "Start `chats notifications-api`, and let the proxy forward this path to it.")


async def _of_private(client: httpx2.AsyncClient, path: str) -> Finding | None:
    response = await client.get(path)
    is_of_proxy = not response.is_success and _OURS not in response.text  # such as a 403, or a redirect to a sign-in
    if is_of_proxy or response.status_code == httpx2.codes.NOT_FOUND:
        return None
    text = f"{path} can be reached from outside (status {response.status_code})."
    return fault(text, "Let the proxy forward only the public paths, as deploy/Caddyfile does.")


async def _of_connections(settings: TokenSettings, token: str) -> Sequence[Finding]:
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": CLAIMED}
    instances = set()
    for _ in range(CONNECTIONS):
        async with httpx2.AsyncClient(base_url=settings.public_url, timeout=TIMEOUT, headers=headers) as client:
            async with client.stream("GET", _CONNECTION) as response:  # open: a proxy may close it after the response
                own, _ = response.extensions["network_stream"].get_extra_info("client_addr")[:2]
                await response.aread()
            if response.status_code != httpx2.codes.OK:
                text = f"{_CONNECTION} answers with status {response.status_code}: {_detail(response)}"
                advice = "Use the CHATS_AUTH_SECRET of `chats api`, or a token with the role store."
                return [fault(text, f"{advice} The proxy must pass on Authorization headers.")]
            try:
                seen = _CONNECTION_OUT.validate_json(response.content)
            except ValueError:
                text = f"{_CONNECTION} answers with something else: {response.text[:200]}"
                return [fault(text, "Let the proxy forward this path to `chats api`.")]
            instances.add(seen.instance)
    return [*_of_client(settings, own, seen), _of_copies(len(instances))]


def _of_client(settings: TokenSettings, own: str, seen: ConnectionOut) -> Iterator[Finding]:
    """Yield whether rate limits of sign-ins count the right address."""
    address, public = seen.client_address, urlsplit(settings.public_url)
    if address == CLAIMED:
        yield warning(
            "The proxy believes the X-Forwarded-For header of this machine.",
            "Unless this machine is a proxy itself, remove its network from CHATS_TRUSTED_PROXIES.\n"
            "Otherwise anybody there can choose the address that rate limits count.",
        )
    elif address == own:
        yield ok(f"The API sees this machine's own address, {address}.")
    elif _is_proxy(address, settings):
        yield warning(
            f"The API sees {address} as the client, and this machine has the address {own}.",
            "If that is the proxy's, all clients count as one: list it in CHATS_TRUSTED_PROXIES of the API,\n"
            "and let it set X-Forwarded-For. If it is this machine's behind a NAT, all is well.",
        )
    else:
        yield note(f"The API sees {address} as this machine's address.", "Check that this is its public address.")
    if seen.scheme != public.scheme:
        text = f"The API sees {seen.scheme} requests, and the public URL is {settings.public_url}."
        yield warning(text, "Let the proxy set X-Forwarded-Proto, and list it in CHATS_TRUSTED_PROXIES of the API.")
    if seen.host.lower() != public.netloc.lower():
        text = f"The API sees the host {seen.host}, and the public URL is {settings.public_url}."
        yield fault(text, "Let the proxy pass on the Host header: otherwise forms and sessions are refused.")


def _is_proxy(address: str | None, settings: TokenSettings) -> bool:
    try:
        client = ip_address(address or "")
    except ValueError:
        return True
    return client.is_private or any(client in ip_network(network) for network in settings.trusted_proxies)


def _of_copies(count: int) -> Finding:
    if count == 1:
        text = f"One copy of the API answered {CONNECTIONS} requests."
        return note(text, "If you run several, let the proxy resolve the service's name regularly.")
    return ok(f"{count} copies of the API answered {CONNECTIONS} requests.")
