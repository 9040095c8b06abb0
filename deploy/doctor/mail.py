"""Check the mail server as the sender uses it, and the DNS records of the sender's domain."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from deploy.doctor.dns_records import check_envelope, check_records
from deploy.doctor.findings import Finding, fault, note, ok, warning
from deploy.doctor.settings import is_local, why_unchecked
from services.notifications.mail.addresses import ascii_domain_address, sender_address
from services.notifications.mail.attempts import Attempt, Phase
from services.notifications.mail.smtp import SmtpConnection, Timeouts
from services.notifications.mail.smtp_url import LOOPBACK, SmtpServer, host_of, parse_smtp_url
from services.notifications.mail.wire_format import size_limit
from services.notifications.settings import EmailSettings
from shared.settings import read_settings

TIMEOUTS: Final = Timeouts(reply=15)
LARGEST_EMAIL: Final = 1024 * 1024  # bytes: fifty of the longest messages, as text and HTML

_ADVICE: Final[Mapping[Phase, str]] = {
    Phase.CONNECT: "Check the scheme, host and port in CHATS_SMTP_URL, and whether a firewall blocks the port.",
    Phase.BANNER: "Check that this is a mail server's port, and that the server admits this machine.",
    Phase.EHLO: "Set CHATS_EMAIL_EHLO to this machine's public host name.",
    Phase.STARTTLS: "Check the server's certificate; for TLS from the start use smtps://.",
    Phase.AUTH: "Check the user and password in CHATS_SMTP_URL; both are percent-encoded there.",
}


async def check() -> Sequence[Finding]:
    """Connect, start TLS and log in, without sending an email; then look at the sender's domain."""
    if unchecked := why_unchecked(EmailSettings):
        return [unchecked]
    settings = read_settings(EmailSettings)
    if settings.smtp_url is None:
        return [note("Not checked: CHATS_SMTP_URL is not set, so every email is suppressed.")]
    server = parse_smtp_url(settings.smtp_url.get_secret_value())
    connection = SmtpConnection(server, ehlo=settings.ehlo, timeouts=TIMEOUTS)
    try:
        failure = await connection.open()
        extensions = dict(connection.extensions)
    finally:
        await connection.close()
    where = host_of(settings.smtp_url.get_secret_value())
    findings = [_failure(where, failure)] if failure else list(_of_server(where, server, extensions))
    findings += _of_ehlo(settings.ehlo, server)
    sender = ascii_domain_address(sender_address(settings.email_from))
    records = await check_records(sender.rpartition("@")[2], server.host, settings.signer)
    bounces = await check_envelope(settings.inbound_domain, server.host) if settings.inbound_domain else []
    return [*findings, *records, *bounces]


def _failure(where: str, failure: Attempt) -> Finding:
    reply = f"{failure.code} {failure.reply}" if failure.code else failure.reply
    text = f"{where} failed in the phase {failure.phase}: {reply.rstrip('.')}."
    return fault(text, _ADVICE.get(failure.phase, "Look at the server's log."))


def _of_server(where: str, server: SmtpServer, extensions: Mapping[str, str]) -> Iterator[Finding]:
    security = {"none": "unencrypted", "tls": "with TLS", "starttls": "with STARTTLS"}[server.security]
    yield ok(f"{where} answers {security}{' and accepts the login' if server.user else ''}.")
    if server.security == "none" and not is_local(server.host):
        text = f"Emails{' and the password' if server.user else ''} travel to {where} unencrypted."
        scheme = "smtp+starttls" if "starttls" in extensions else "smtps"
        yield warning(text, f"Use {scheme}:// in CHATS_SMTP_URL.")
    if "smtputf8" not in extensions:
        yield note(f"{where} does not accept addresses that are not ASCII (no SMTPUTF8): such emails fail.")
    if (limit := size_limit(extensions)) and limit < LARGEST_EMAIL:
        text = f"{where} accepts at most {limit} bytes: an email about many long messages fails."
        yield warning(text, f"Allow {LARGEST_EMAIL} bytes.")


def _of_ehlo(ehlo: str, server: SmtpServer) -> Iterator[Finding]:
    if is_local(server.host):
        return
    if ehlo == LOOPBACK or is_local(ehlo.strip("[]").removeprefix("IPv6:")):
        text = f"The EHLO name is {ehlo}, which many servers refuse."
        yield warning(text, "Set CHATS_EMAIL_EHLO, or CHATS_PUBLIC_URL, to a public host name.")
    else:
        yield ok(f"The EHLO name is {ehlo}.")
