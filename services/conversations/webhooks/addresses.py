"""Which addresses a webhook may reach. Its URL is somebody's input, and we stand inside a network of ours.

Everything but public unicast is refused, also when it is written inside an IPv6 address: an IPv4 address that is
mapped, translated or tunnelled reaches what the plain one reaches.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

MAX_URL: Final = 2000  # characters
MAX_NAME: Final = 253  # characters of a host name
# Letters, digits and hyphens; some names in use have underscores, too.
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")

# What `is_global` takes for global, in some versions of Python, and is not for webhooks.
_NOT_PUBLIC_4: Final = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"))
_UNICAST_6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is global unicast. An IPv4 address that an IPv6 address stands for counts as itself."""
    if isinstance(address, IPv6Address):
        if (meant := _meant(address)) is not None:
            return is_public(meant)
        return address in _UNICAST_6 and address.is_global and not any(address in network for network in _NOT_PUBLIC_6)
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _NOT_PUBLIC_4)
    )


def _meant(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that is mapped or translated to an IPv6 address; None if none is."""
    return IPv4Address(int(address) & 0xFFFF_FFFF) if address in _TRANSLATED else address.ipv4_mapped


def is_reachable(address: str, *, is_private_host: bool) -> bool:
    """Return whether a webhook may connect to an address that its host name resolved to.

    A host that the operator named may have any address that belongs to one machine, except link-local ones: there
    clouds serve their credentials.
    """
    parsed = ip_address(address.partition("%")[0])
    if is_public(parsed):
        return True
    plain = _meant(parsed) or parsed if isinstance(parsed, IPv6Address) else parsed
    return is_private_host and not (
        plain.is_link_local or plain.is_multicast or plain.is_unspecified or (plain.is_reserved and plain.version == 4)  # noqa: PLR2004 - of IP; for IPv6 loopback counts as reserved
    )


def check_url(url: str, private_hosts: frozenset[str]) -> str:
    """Return a URL that webhooks may be sent to. Raises `ValueError` with what is wrong with it, for people.

    What the name resolves to is checked at each connection, not here.
    """
    parts = _split(url)
    host = (parts.hostname or "").removesuffix(".")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must contain no user or password: verify the signature instead")
    if "#" in url:
        raise ValueError("must have no fragment (#)")
    _check_name(host)
    if host not in private_hosts:
        _check_host(host)
    if parts.scheme == "http" and not (host in private_hosts and _is_loopback_name(host)):
        raise ValueError(
            "must begin with https://; http:// is for this machine alone, if CHATS_WEBHOOK_PRIVATE_HOSTS names it"
        )
    return url


def _split(url: str) -> SplitResult:
    if len(url) > MAX_URL:
        raise ValueError(f"must have at most {MAX_URL} characters")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError(
            "must be ASCII without spaces and backslashes: write an international host name as xn--…, and encode paths"
        )
    try:
        parts = urlsplit(url)
        host = parts.hostname
        is_valid = parts.scheme in {"https", "http"} and host and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError("must be a URL such as https://store.example/hooks")
    return parts


def _check_name(host: str) -> None:
    """Raise `ValueError` for a host that is neither an IP address nor a name that DNS can have."""
    try:
        address = ip_address(host)
    except ValueError:
        if len(host) > MAX_NAME or not all(map(_LABEL.fullmatch, host.split("."))):
            raise ValueError(
                "must have a host name such as store.example: parts of 1 to 63 letters, digits and hyphens between"
                f" dots, {MAX_NAME} characters at most"
            ) from None
        return
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError("must have an IPv6 address without a zone (%): leave out the % and what follows it")


def _is_loopback_name(host: str) -> bool:
    """Return whether a host is this machine itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_host(host: str) -> None:
    try:
        literal = ip_address(host)
    except ValueError:
        last = host.rpartition(".")[2]
        if last.isdecimal() or last.startswith("0x"):  # `127.1` and `0x7f.1` are addresses to a resolver
            raise ValueError("must name a host, or an IPv4 address as four decimal numbers") from None
        if "." not in host or last in {"localhost", "internal", "local"}:
            raise ValueError(
                f"{host} is a name of a private network: the operator can allow it by CHATS_WEBHOOK_PRIVATE_HOSTS"
            ) from None
        return
    if not is_public(literal):
        raise ValueError(f"{host} is no public address: the operator can allow it by CHATS_WEBHOOK_PRIVATE_HOSTS")
