"""Check the mailbox that `chats inbound` reads, without changing anything in it."""

from collections.abc import AsyncIterator, Sequence

from deploy.doctor.findings import Finding, fault, note, ok, warning
from deploy.doctor.settings import is_local, why_unchecked
from services.notifications.mail.imap import ImapConnection
from services.notifications.mail.imap_url import ImapServer
from services.notifications.mail.imap_wire import ImapError, ImapRefused, LoginRefused
from services.notifications.settings import InboundSettings
from shared.settings import read_settings


async def check() -> Sequence[Finding]:
    """Connect, start TLS and log in; then look for the folders and for what the server can do."""
    if unchecked := why_unchecked(InboundSettings):
        return [unchecked]
    settings = read_settings(InboundSettings)
    server = settings.imap_server
    if server is None:
        return [note("CHATS_INBOUND_IMAP_URL is not set: no mailbox is read.")]
    try:
        connection = await ImapConnection.open(server)
    except LoginRefused as error:
        advice = "Check the user and password in CHATS_INBOUND_IMAP_URL; both are percent-encoded there."
        return [fault(f"{server.where} refuses the login: {error}.", advice)]
    except (ImapError, ImapRefused) as error:
        advice = "Check the scheme, host and port in CHATS_INBOUND_IMAP_URL, and the server's certificate."
        return [fault(f"{server.where} cannot be reached: {error}.", advice)]
    try:
        return [finding async for finding in _of(connection, server, settings.inbound_imap_done)]
    except (ImapError, ImapRefused) as error:
        return [fault(f"{server.where} failed: {error}.", "Look at the server's log.")]
    finally:
        await connection.close()


async def _of(connection: ImapConnection, server: ImapServer, done: str) -> AsyncIterator[Finding]:
    security = {"none": "unencrypted", "tls": "with TLS", "starttls": "with STARTTLS"}[server.security]
    yield ok(f"{server.where} answers {security} and accepts the login.")
    if server.security == "none" and not is_local(server.host):
        yield warning(f"The password travels to {server.where} unencrypted.", "Use imaps:// in CHATS_INBOUND_IMAP_URL.")
    if reason := connection.why_not_move:
        yield fault(f"Emails cannot be moved: {reason}.", "Use another server, or let a mail server deliver by LMTP.")
    if "IDLE" not in connection.capabilities:
        yield note("The server has no IDLE: emails are looked for every 30 s.")
    if not await connection.has_folder(server.folder):
        yield fault(f"There is no folder {server.folder}.", "Correct the path of CHATS_INBOUND_IMAP_URL.")
    if not await connection.has_folder(done):
        yield note(f"There is no folder {done} yet: chats inbound makes it.")
