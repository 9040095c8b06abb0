"""Look up what DNS says about a sender's domain (SPF, DMARC, MX), and print what it should say.

RFC 7208 (SPF), RFC 6376 (DKIM), RFC 7489 (DMARC).
"""

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.resolver

from deploy.doctor.findings import Finding, Severity, fault, note, ok, warning
from deploy.doctor.settings import is_local
from services.notifications.mail.signing import Signer

TIMEOUT: Final = 5.0  # seconds for one lookup
RESERVED: Final = ("test", "example", "invalid", "localhost", "local", "internal")  # RFC 2606, RFC 6762

Records = Sequence[str] | None
"""The texts of a name's records; None if no server answered."""


async def check_records(domain: str, mail_server: str, signer: Signer | None) -> Sequence[Finding]:
    """Check the records of the sender's domain, for email that leaves by this mail server."""
    labels = domain.lower().rstrip(".").split(".")
    if len(labels) == 1 or labels[-1] in RESERVED:
        text = f"CHATS_EMAIL_FROM is at {domain}, which is not a domain on the internet."
        return [
            note(text, "This is right for a trial: its emails stay on this machine.")
            if is_local(mail_server)
            else warning(text, "Set it to an address of your store's domain.")
        ]
    domain = ".".join(labels)
    texts, mail, policies = await _lookup(domain, "TXT"), await _lookup(domain, "MX"), await _policies(labels)
    return [
        _spf(domain, mail_server, texts),
        *([_unsigned(domain)] if signer is None else await _dkim(domain, signer)),
        _dmarc(domain, policies),
        *_bounces(domain, mail, await _lookup(domain, "A") if mail == [] else mail),
    ]


async def check_envelope(domain: str, mail_server: str) -> Sequence[Finding]:
    """Check the records of the inbound domain: of the envelope senders of all emails, and where bounces go."""
    if len(labels := domain.split(".")) == 1 or labels[-1] in RESERVED:
        return []
    mail, texts = await _lookup(domain, "MX"), await _lookup(domain, "TXT")
    findings = [_spf(domain, mail_server, texts)]
    if mail == []:
        text = f"MX: {domain} (CHATS_INBOUND_DOMAIN) receives no email, so replies and bounces are lost."
        findings.append(warning(text, "Publish an MX record that names your mail server."))
    return findings


def _spf(domain: str, mail_server: str, texts: Records) -> Finding:
    to_copy = f'{domain}. TXT "v=spf1 {_mechanism(mail_server)} ~all"'
    advice = (
        f"If {mail_server} delivers to recipients itself, publish this, otherwise what your provider says:\n{to_copy}"
    )
    if texts is None:
        return _unknown(f"SPF of {domain}", advice)
    found = [text for text in texts if text.lower().split()[:1] == ["v=spf1"]]
    if not found:
        return warning(f"SPF: {domain} has no record, so receivers trust its emails less.", advice)
    if len(found) > 1:
        return fault(f"SPF: {domain} has {len(found)} records, which counts as an error.", "Join them into one.")
    if found[0].lower().split()[-1] in {"+all", "all"}:
        advice = "End it with ~all, after the servers that send for you."
        return fault(f"SPF: {domain} lets the whole internet send: {found[0]}", advice)
    return note(f"SPF: {domain} says: {found[0]}", f"Check that it covers the server that delivers for {mail_server}.")


def _mechanism(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return "mx" if is_local(host) else f"a:{host}"
    return "mx" if address.is_loopback else f"ip{address.version}:{address}"


def _unsigned(domain: str) -> Finding:
    return note(
        f"DKIM: Customer Chats does not sign: let your mail server sign for {domain}, or set CHATS_DKIM_KEY_FILE.",
        f'Publish the key that it names:\nSELECTOR._domainkey.{domain}. TXT "v=DKIM1; k=rsa; p=PUBLIC_KEY"',
    )


async def _dkim(domain: str, signer: Signer) -> Sequence[Finding]:
    name = f"{signer.selector}._domainkey.{signer.domain}"
    record = f"v=DKIM1; k=rsa; p={signer.public_key}"
    # A record's text consists of strings of at most 255 characters.
    to_copy = f"{name}. TXT " + " ".join(f'"{record[start : start + 255]}"' for start in range(0, len(record), 255))
    texts = await _lookup(name, "TXT")
    if texts is None:
        return [_unknown(f"DKIM of {name}", f"Publish:\n{to_copy}")]
    keys = [re.sub(r"\s", "", found[1]) for text in texts if (found := re.search(r"(?:^|;)\s*p\s*=([^;]*)", text))]
    if not keys:
        return [fault(f"DKIM: {name} has no key, so receivers cannot check our signature.", f"Publish:\n{to_copy}")]
    if keys != [signer.public_key]:
        text = f"DKIM: {name} has another key than the one that signs, so our signature fails."
        return [fault(text, f"Publish this alone, or set CHATS_DKIM_SELECTOR to the key's name:\n{to_copy}")]
    if (
        domain != signer.domain
        and not domain.endswith(f".{signer.domain}")
        and not signer.domain.endswith(f".{domain}")
    ):
        text = f"DKIM: emails from {domain} are signed for {signer.domain}, which DMARC does not count."
        return [warning(text, f"Set CHATS_DKIM_DOMAIN to {domain}.")]
    return [ok(f"DKIM: {name} has the key that signs.")]


def _dmarc(domain: str, policies: tuple[str, Records]) -> Finding:
    name, texts = policies
    to_copy = f'_dmarc.{domain}. TXT "v=DMARC1; p=none; rua=mailto:postmaster@{domain}"'
    advice = f"Publish, and change p to quarantine once the reports are good:\n{to_copy}"
    if texts is None:
        return _unknown(f"DMARC of {domain}", advice)
    if not texts:
        return warning(f"DMARC: {domain} has no policy. Large mailbox providers ask for one.", advice)
    if len(texts) > 1:
        return fault(f"DMARC: {name} has {len(texts)} records, so none counts.", "Delete all but one.")
    return ok(f"DMARC: {name} says: {texts[0]}")


def _bounces(domain: str, mail: Records, addresses: Records) -> Iterator[Finding]:
    if mail == [] and addresses == []:
        text = f"MX: {domain} receives no email, so bounces and answers are lost, and some servers refuse its emails."
        yield warning(text, "Publish an MX record, or send from a domain that has one.")


def _unknown(what: str, advice: str) -> Finding:
    return Finding(Severity.NOTE, f"{what}: no name server answered.", advice)


async def _policies(labels: Sequence[str]) -> tuple[str, Records]:
    """Return the DMARC records of a domain or of its nearest parent with any, and their name."""
    name = ""
    for start in range(len(labels) - 1):
        name = f"_dmarc.{'.'.join(labels[start:])}"
        texts = await _lookup(name, "TXT")
        if texts is None:
            return name, None
        if found := [text for text in texts if text.lower().replace(" ", "").startswith("v=dmarc1")]:
            return name, found
    return name, []


async def _lookup(name: str, kind: str) -> Records:
    try:
        answer = await dns.asyncresolver.resolve(name, kind, lifetime=TIMEOUT)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except (dns.exception.DNSException, OSError):
        return None
    if kind != "TXT":
        return [record.to_text() for record in answer]
    return [b"".join(record.strings).decode("ascii", "backslashreplace") for record in answer]
