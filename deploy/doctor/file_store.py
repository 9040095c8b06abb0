"""Check the file store, and the scanner if there is one."""

from collections.abc import Sequence

from deploy.doctor.findings import Finding, fault, ok
from deploy.doctor.settings import why_unchecked
from services.conversations.attachments.clamd import ScanError, ping
from services.conversations.attachments.file_store import FileStoreError, open_files
from services.conversations.settings import FileSettings
from shared.settings import read_settings


async def check() -> Sequence[Finding]:
    """Write, read and delete an object, and ask clamd for an answer."""
    if unchecked := why_unchecked(FileSettings):
        return [unchecked]
    settings = read_settings(FileSettings)
    findings = []
    try:
        await open_files(settings).probe()
        findings.append(ok(f"{settings.files_url} can be written, read and deleted from."))
    except FileStoreError as error:
        advice = "Correct CHATS_FILES_URL and its keys. A folder must be writable by the account of the processes."
        findings.append(fault(f"{settings.files_url} cannot be used: {error}.", advice))
    if settings.scan_url is not None:
        try:
            await ping(settings.scan_url)
            findings.append(ok(f"clamd answers at {settings.scan_url}."))
        except ScanError as error:
            advice = "Start clamd or correct CHATS_SCAN_URL. Until then files are held back."
            findings.append(fault(f"clamd does not answer at {settings.scan_url}: {error}.", advice))
    return findings
