"""Find out to whom an email went when no envelope says so: our own addresses in its headers, and its sender."""

import re
from collections.abc import Sequence
from email.message import Message
from typing import Final

from services.notifications.inbound.parsing.mime import header_of

MAX_RECIPIENTS: Final = 20
MAX_HEADER: Final = 10_000  # characters of a header that is searched
# What mail servers add at delivery, then what the sender wrote.
HEADERS: Final = ("delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "x-forwarded-to", "to", "cc")


def addresses_in(message: Message, domain: str) -> list[str]:
    """Return the addresses of our emails at our domain in the first kind of header that has any.

    Nothing else is read from these headers: everyone who knows such an address may use it, so its place says nothing.
    """
    return _find(message, rf"(?:reply|bounce|leave)\+[a-z2-7]{{52}}@{re.escape(domain)}")


def has_address(message: Message, address: str) -> bool:
    """Return whether a header has this address."""
    return bool(_find(message, re.escape(address)))


def _find(message: Message, address: str) -> list[str]:
    ours = re.compile(rf"(?<![\w.+-]){address}(?![\w.-])", re.IGNORECASE)
    for name in HEADERS:
        values = [str(value)[:MAX_HEADER] for value in message.get_all(name, ())]
        if found := distinct([address for value in values for address in ours.findall(value)]):
            return found
    return []


def envelope_sender(message: Message) -> str | None:
    """Return the sender that the delivering mail server noted: empty for a delivery report, None if there is none."""
    noted = message.get_all("return-path", ())
    return header_of(message, "return-path").strip("<> ") if noted else None


def distinct(addresses: Sequence[str]) -> list[str]:
    """Return addresses once each, without regard to case, and no more than an email may have."""
    return list({address.lower(): address for address in reversed(addresses)}.values())[::-1][:MAX_RECIPIENTS]
