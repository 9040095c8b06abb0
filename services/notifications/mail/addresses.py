"""Email addresses and Message-IDs in the form that email headers and SMTP require."""

import re
from functools import lru_cache
from unicodedata import normalize
from uuid import UUID

import idna

MAX_ADDRESS = 320  # bytes
_NEEDLESS_QUOTES = re.compile(r'^"([^"\\]+)"(?=@)')
_UNSAFE = re.compile(r'[<>()\[\],;:\\"@\s]')
# The email package and some clients break long ids: 70 characters with "<", 32 digits, "@" and ">".
MAX_ID_DOMAIN = 35
# Local parts of addresses that nobody reads; bounces come from the first.
UNATTENDED = frozenset(
    {"mailer-daemon", "noreply", "no-reply", "no_reply", "donotreply", "do-not-reply", "do_not_reply"}
)


class AddressError(ValueError):
    """The address cannot receive email."""


def ascii_domain_address(address: str) -> str:
    """Return a bare address with its domain in ASCII (IDNA) and no quotes; the local part may be in any script.

    Raises AddressError if it is not one bare address, or not safe in a header or an SMTP command.
    """
    local, _, domain = _NEEDLESS_QUOTES.sub(r"\1", address).rpartition("@")
    unsafe = _UNSAFE.search(local + domain) is not None or not (local + domain).isprintable()
    unsafe = unsafe or "=?" in local  # an encoded word, which decodes to another address
    if not local or not domain or unsafe or len(address.encode()) > MAX_ADDRESS:
        raise AddressError("not a valid email address")
    # An ASCII domain stays as it is: IDNA rejects names that work, such as those with an underscore.
    try:
        return f"{local}@{domain if domain.isascii() else idna.encode(domain, uts46=True).decode()}"
    except UnicodeError as error:
        raise AddressError(str(error)) from None


def addr_spec(address: str) -> str:
    """Return a bare address in the form that headers and SMTP commands require.

    A local part with two dots in a row, or with a dot at either end, needs quotes. Mobile carriers assigned many such
    addresses. Raises AddressError as `ascii_domain_address` does.
    """
    local, _, domain = ascii_domain_address(address).rpartition("@")
    return f"{local}@{domain}" if all(local.split(".")) else f'"{local}"@{domain}'


@lru_cache(maxsize=1024)  # of an email that comes in, several are the same
def mailbox_of(address: str) -> str:
    """Return the canonical form of an address, for comparing and counting; do not send to it.

    A "+" suffix is kept: only some servers deliver such addresses to the same person. Raises AddressError as
    `ascii_domain_address` does.
    """
    local, _, domain = ascii_domain_address(address).rpartition("@")
    return f"{normalize('NFC', normalize('NFD', local).casefold())}@{domain.lower().rstrip('.')}"


def mailbox_or_none(address: str | None) -> str | None:
    """Return the canonical form of an address; None without one, or if it cannot receive email."""
    try:
        return mailbox_of(address) if address else None
    except AddressError:
        return None


def is_unattended(mailbox: str) -> bool:
    """Return whether nobody reads emails to an address, given as `mailbox_of` returns it."""
    return mailbox.rpartition("@")[0].partition("+")[0] in UNATTENDED


@lru_cache  # every email calls it with the same few settings
def sender_address(email_from: str) -> str:
    """Return the bare address of `Name <address>` or `address`. Raises AddressError if there is none."""
    return ascii_domain_address(_split(email_from)[1])


def sender_name(email_from: str) -> str:
    """Return the name of `Name <address>` without quotes, or an empty string."""
    return _split(email_from)[0]


def _split(email_from: str) -> tuple[str, str]:
    """Split a sender into name and address. The name may contain commas without quotes."""
    match = re.fullmatch(r"\s*(.*?)\s*<([^<>]*)>\s*", email_from, re.DOTALL)
    if match is None:
        return "", email_from.strip()
    name = match[1]
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    return name.strip(), match[2].strip()


def domain_of(email_from: str) -> str:
    """Return the ASCII domain of the sender in lower case. Raises AddressError as `sender_address` does."""
    return sender_address(email_from).rpartition("@")[2].lower()


def message_id(email_id: UUID, email_from: str) -> str:
    """Return the Message-ID of an email, always the same for the same email: at most 70 ASCII characters."""
    domain = domain_of(email_from)
    while len(domain) > MAX_ID_DOMAIN:
        # The domain may be shortened: the id is unique without it.
        domain = domain.partition(".")[2] or domain[-MAX_ID_DOMAIN:].lstrip("-")
    return f"<{email_id.hex}@{domain}>"


def masked(address: str) -> str:
    """Return an address with only its first character and its domain, to hide it from logs and operators."""
    local, at, domain = address.rpartition("@")
    return f"{local[:1]}…@{domain}" if at else address
