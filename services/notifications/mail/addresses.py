"""Email addresses and the ids made from them, in the form that mail headers and SMTP take."""

import re
from functools import lru_cache
from unicodedata import normalize
from uuid import UUID

import idna

MAX_ADDRESS = 320  # bytes
_NEEDLESS_QUOTES = re.compile(r'^"([^"\\]+)"(?=@)')
# The email package and some clients break long ids: 70 characters with "<", 32 digits, "@" and ">".
MAX_ID_DOMAIN = 35
# Of machines: bounces come from the first, and nobody reads what is sent to the others.
UNATTENDED = frozenset(
    {"mailer-daemon", "noreply", "no-reply", "no_reply", "donotreply", "do-not-reply", "do_not_reply"}
)


class AddressError(ValueError):
    """This is no address that mail can be sent to."""


def ascii_domain_address(address: str) -> str:
    """Return a bare address with its domain in ASCII (IDNA) and no quotes; the local part may be of any script.

    Raises AddressError when it is not one bare address, or cannot be put safely in a header or a command.
    """
    local, _, domain = _NEEDLESS_QUOTES.sub(r"\1", address).rpartition("@")
    unsafe = any(c in '<>()[],;:\\"@' or c.isspace() or not c.isprintable() for c in local + domain)
    unsafe = unsafe or "=?" in local  # an encoded word: who decodes it reads another address
    if not local or not domain or unsafe or len(address.encode()) > MAX_ADDRESS:
        raise AddressError("not an email address that mail can be sent to")
    # An ASCII domain is left as it is: IDNA refuses names that work, such as those with an underscore.
    try:
        return f"{local}@{domain if domain.isascii() else idna.encode(domain, uts46=True).decode()}"
    except UnicodeError as error:
        raise AddressError(str(error)) from None


def addr_spec(address: str) -> str:
    """Return a bare address as headers and SMTP commands need it.

    Their grammar wants quotes around a local part with two dots in a row, or with a dot at either end. Mobile carriers
    gave out many such addresses. Raises AddressError as `ascii_domain_address` does.
    """
    local, _, domain = ascii_domain_address(address).rpartition("@")
    return f"{local}@{domain}" if all(local.split(".")) else f'"{local}"@{domain}'


def mailbox_of(address: str) -> str:
    """Return the one form of an address that all its spellings have, to compare and to count by, not to send to.

    What follows a "+" is kept: that it leads to the same person is the custom of some servers, no rule. Raises
    AddressError as `ascii_domain_address` does.
    """
    local, _, domain = ascii_domain_address(address).rpartition("@")
    return f"{normalize('NFC', normalize('NFD', local).casefold())}@{domain.lower().rstrip('.')}"


def is_unattended(mailbox: str) -> bool:
    """Tell whether an address, as `mailbox_of` returns it, is one that no person has."""
    return mailbox.rpartition("@")[0].partition("+")[0] in UNATTENDED


@lru_cache  # of the same few settings, for each mail
def sender_address(email_from: str) -> str:
    """Return the bare address of `Name <address>` or `address`. Raises AddressError when there is none."""
    return ascii_domain_address(_split(email_from)[1])


def sender_name(email_from: str) -> str:
    """Return the name of `Name <address>`, without quotes around it; nothing when there is none."""
    return _split(email_from)[0]


def _split(email_from: str) -> tuple[str, str]:
    """Split a sender as people write it: a name may hold commas without being quoted."""
    found = re.fullmatch(r"\s*(.*?)\s*<([^<>]*)>\s*", email_from, re.DOTALL)
    if found is None:
        return "", email_from.strip()
    name = found[1]
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    return name.strip(), found[2].strip()


def domain_of(email_from: str) -> str:
    """Return the ASCII domain of the sender, lower case. Raises AddressError as `sender_address` does."""
    return sender_address(email_from).rpartition("@")[2].lower()


def message_id(mail_id: UUID, email_from: str) -> str:
    """Make the Message-ID of a mail, always the same for the same mail: at most 70 characters of ASCII."""
    domain = domain_of(email_from)
    while len(domain) > MAX_ID_DOMAIN:
        # Only uniqueness matters right of the "@", and the id already has it.
        domain = domain.partition(".")[2] or domain[-MAX_ID_DOMAIN:].lstrip("-")
    return f"<{mail_id.hex}@{domain}>"


def masked(address: str) -> str:
    """Return an address as it may be shown to people who need not know it: its first character and its domain."""
    local, at, domain = address.rpartition("@")
    return f"{local[:1]}…@{domain}" if at else address
