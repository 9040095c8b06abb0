"""Check the origin of a store's pages: whether it is listed, what is nearly the same, and what browsers will do."""

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

import idna
from pydantic import TypeAdapter, ValidationError

from deploy.doctor.findings import Finding, fault, note, ok, warning
from deploy.doctor.settings import is_local
from shared.settings import Origin

_ORIGIN: Final[TypeAdapter[str]] = TypeAdapter(Origin)
_LOOPBACK: Final = {"localhost", "127.0.0.1", "[::1]"}


def read_origin(given: str) -> tuple[str | None, list[Finding]]:
    """Return the origin as browsers send it, None if there is none, and what is wrong with how it was written."""
    given = given.strip()
    if given == "null" or given.startswith("file:"):
        text = (
            "The origin is null: the page hides it (Referrer-Policy, sandbox), or it is a file. null is never allowed."
        )
        return None, [
            fault(text, "Serve the page by http or https, with Referrer-Policy: strict-origin-when-cross-origin.")
        ]
    if "://" not in given:
        return None, [fault("This is not an origin: it has no scheme.", "Write it as https://store.example")]
    try:
        parts = urlsplit(given)
        origin = _ORIGIN.validate_python(f"{parts.scheme}://{_host(parts)}{f':{parts.port}' if parts.port else ''}")
    except (ValidationError, ValueError):
        return None, [
            fault("This is not an origin.", "Write scheme, host and port only, such as https://store.example")
        ]
    if given == origin:
        return origin, []
    return origin, [note(f"Browsers send {origin} for pages there.", "Write it like this in CHATS_STORE_ORIGINS.")]


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if ":" in host:
        return f"[{host}]"
    return host if host.isascii() else idna.encode(host, uts46=True).decode()


def check_listed(origin: str, listed: Sequence[str]) -> Finding:
    """Return whether the origin is in CHATS_STORE_ORIGINS; if not, which of them was probably meant."""
    if origin in listed:
        return ok(f"{origin} is in CHATS_STORE_ORIGINS.")
    near = [f"{other} is listed: {reason}." for other in listed if (reason := _difference(origin, other))]
    text = f"{origin} is not in CHATS_STORE_ORIGINS: its pages cannot show the messenger or post the sign-in form."
    setting = f"CHATS_STORE_ORIGINS={','.join([*listed, origin])}"
    return fault(text, "\n".join([*near, f"Set {setting}", "and restart the API."]))


def _difference(origin: str, other: str) -> str | None:
    """Return in what two origins differ, if they are nearly the same."""
    mine, listed = urlsplit(origin), urlsplit(other)
    if _name(mine) == _name(listed):
        if mine.scheme != listed.scheme:
            return f"the scheme is another one, {listed.scheme} instead of {mine.scheme}"
        return "the port is another one"
    if {_name(mine), _name(listed)} <= _LOOPBACK:
        return (
            f"for browsers, {_name(mine)} and {_name(listed)} are two sites. Open the page by the name that is listed"
        )
    if _name(mine).removeprefix("www.") == _name(listed).removeprefix("www."):
        return "with and without www. are two origins"
    return None


def _name(parts: SplitResult) -> str:
    return parts.netloc.rpartition(":")[0] if parts.port is not None else parts.netloc


def check_browser(origin: str, public: str) -> Iterator[Finding]:
    """Yield what browsers do with the messenger's frame, which comes from `public`, in a page of the origin."""
    page, chats = urlsplit(origin), urlsplit(public)
    here = chats.hostname or ""
    if page.scheme == "https" and chats.scheme == "http" and not is_local(here):
        text = f"The page is https, and Customer Chats is {public}: browsers block it as mixed content."
        yield fault(text, "Serve Customer Chats by https, and set CHATS_PUBLIC_URL to that address.")
        return
    if page.scheme == "http" and not is_local(page.hostname or ""):
        yield warning("The page is not https: others on its network can read the tokens.", "Serve the store by https.")
    if _is_same_site(page, chats):
        yield ok("The page and Customer Chats are one site for browsers: the panel's cookie is not a third party's.")
    elif (domain := _common_domain(page, chats)) is not None:
        yield ok(
            f"The page and Customer Chats are one site for browsers if {domain} is yours, not a suffix like co.uk."
        )
    elif chats.scheme == "https" or here in {"localhost", "127.0.0.1", "::1"}:
        yield ok("The page and Customer Chats are two sites for browsers: the panel's cookie is partitioned.")
        yield note("Browsers that keep no such cookie, as Safari before 26.2, show a link instead of the panel.")
    else:
        text = f"The page and {public} are two sites, and without https no browser keeps the panel's cookie."
        yield fault(text, "Serve Customer Chats by https, or on a subdomain of the store.")


def _is_same_site(page: SplitResult, chats: SplitResult) -> bool:
    """Return whether browsers surely see one site: the same scheme, and the same host or a part of the other."""
    if page.scheme != chats.scheme:
        return False
    mine, theirs = page.hostname or "", chats.hostname or ""
    if mine == theirs:
        return True
    if _is_address(mine) or _is_address(theirs):
        return False
    return mine.endswith(f".{theirs}") or theirs.endswith(f".{mine}")


def _common_domain(page: SplitResult, chats: SplitResult) -> str | None:
    """Return the domain above two hosts. Only the Public Suffix List says whether browsers see one site there."""
    mine, theirs = ((parts.hostname or "").split(".")[-2:] for parts in (page, chats))
    is_common = page.scheme == chats.scheme and mine == theirs and len(mine) > 1
    return ".".join(mine) if is_common and not _is_address(page.hostname or "") else None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
