"""A disk that is really full, under PostgreSQL and the files: what was acknowledged stays, the rest is refused."""

import asyncio
import os
import pwd
import re
import shutil
import smtplib
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import asyncpg
import httpx2
import pytest

from deploy.local.ports import free_ports
from deploy.local.postgres import PUBLIC_DIRECTORIES, SERVICE_ACCOUNTS
from deploy.local.processes import Spawn
from tests.helpers.smtp_server import SmtpServer
from tests.helpers.waiting import eventually
from tests.system.helpers.product import PROCESSES, SECRET, Product, running_product
from tests.system.test_faults import drained

SIZE = "300m"
FILE = os.urandom(2**20)
LARGE = "A long answer. " * 600  # fills the pages that have room
RECOVERY = 60  # seconds
TRY_AGAIN = 451

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        "EVERY_CASE" not in os.environ or os.geteuid() != 0, reason="mounts a disk: set EVERY_CASE=1, as root"
    ),
]


class Disk:
    """A file system of its own that can be filled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no byte."""
        with suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def empty(self) -> None:
        """Make room again."""
        self._ballast.unlink()


@pytest.fixture(scope="module")
def disk() -> Iterator[Disk]:
    with tempfile.TemporaryDirectory(dir=next(path for path in PUBLIC_DIRECTORIES if os.access(path, os.W_OK))) as path:
        if _run("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", path):
            pytest.skip("nothing can be mounted here")
        try:
            yield Disk(Path(path))
        finally:
            _run("umount", "--lazy", path)


def _run(*command: str) -> int:
    return subprocess.run(command, check=False).returncode  # noqa: S603 - our own


@pytest.fixture(scope="module")
async def product(
    tmp_path_factory: pytest.TempPathFactory, fork: Spawn, mail_server: SmtpServer, disk: Disk
) -> AsyncIterator[Product]:
    """The whole product, with its databases and files on the disk, and with emails both ways."""
    directory, home = tmp_path_factory.mktemp("product"), disk.path / "postgres"
    known = {account.pw_name for account in pwd.getpwall()}
    home.mkdir(mode=0o700)
    shutil.chown(home, next(name for name in SERVICE_ACCOUNTS if name in known))
    (directory / "postgres").symlink_to(home)
    settings = {
        "CHATS_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
        "CHATS_EMAIL_DELAY_SECONDS": "1",
        "CHATS_EMAIL_RETRY_SECONDS": "1,1,1",
        "CHATS_FILES_URL": (disk.path / "files").as_uri(),
        "CHATS_INBOUND_DOMAIN": "in.store.test",
        "CHATS_INBOUND_SECRET": SECRET,
        "CHATS_INBOUND_LISTEN": f"lmtp://127.0.0.1:{free_ports([0])[0]}",
    }
    async with running_product(directory, fork, **settings) as product:
        await product.start(*PROCESSES)
        yield product


async def posts(product: Product, conversation: str, key: str) -> bool:
    """Post an answer, as the same request for the same key; return whether it was acknowledged."""
    path = f"/api/v1/admin/conversations/{conversation}/messages"
    answer = await product.call("POST", path, "sam", "admin", key, json={"body": f"{key} {LARGE}"})
    return _is_done(answer)


async def uploads(product: Product) -> bool:
    """Upload a file; return whether it was acknowledged."""
    files = {"file": ("file.bin", FILE)}
    return _is_done(await product.call("POST", "/api/v1/attachments", "sam", "admin", files=files))


def _is_done(answer: httpx2.Response) -> bool:
    outcome = answer.status_code, "retry-after" in answer.headers
    assert outcome in {(201, False), (503, True)}, answer.text
    return outcome == (201, False)


def delivers(product: Product, address: str, key: str) -> bool:
    """Deliver a reply by email with a file, as the same email for the same key; return whether it was acknowledged."""
    email = EmailMessage(SMTP)
    email["From"], email["To"], email["Message-ID"] = "anna@customer.test", address, f"<{key}@customer.test>"
    email.set_content(key)
    email.add_attachment(FILE, maintype="application", subtype="octet-stream", filename="file.bin")
    port = int(product.environment["CHATS_INBOUND_LISTEN"].rpartition(":")[2])
    with smtplib.LMTP("127.0.0.1", port, timeout=60) as server:
        try:
            server.send_message(email, "anna@customer.test", [address])
        except smtplib.SMTPRecipientsRefused as refused:
            [(code, _)] = refused.recipients.values()
        except smtplib.SMTPResponseException as refused:
            code = refused.smtp_code
        else:
            return True
    assert code == TRY_AGAIN
    return False


async def first_words(product: Product, conversation: str) -> list[str]:
    """Return the first word of each message."""
    path = f"/api/v1/admin/conversations/{conversation}/messages?limit=100"
    page = (await product.call("GET", path, "sam", "admin")).json()
    return [message["body"].split()[0] for message in page["items"]]


async def stop_postgres_by_its_log(product: Product) -> None:
    """Write to PostgreSQL's log until it cannot: then it stops."""
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection = await asyncpg.connect(product.superuser_url)
        while True:
            await connection.execute("select pg_logical_emit_message(false, 'full', repeat('x', 1000000))")
    await eventually(lambda: "postgres" in product.ended())


@pytest.mark.parametrize("full", ["tables", "log"])
async def test_a_full_disk_refuses_and_loses_nothing_acknowledged(
    product: Product, disk: Disk, mail_server: SmtpServer, full: str
) -> None:
    conversation = await product.open_conversation()
    answer, before = await product.reply(conversation), len(mail_server.emails)
    [email] = await eventually(lambda: mail_server.emails[before:])
    address = re.search(rb"reply\+[^>]+", email.content)[0].decode()  # type: ignore[index]
    assert await posts(product, conversation, "first-post")
    assert await asyncio.to_thread(delivers, product, address, "first-email")

    disk.fill()
    if full == "log":
        await stop_postgres_by_its_log(product)
    posted = ["first-post", "next-post"]
    while await posts(product, conversation, posted[-1]):
        posted.append(f"post-{len(posted)}")
    assert not await asyncio.to_thread(delivers, product, address, "next-email")
    assert not await uploads(product)

    disk.empty()
    if full == "log":
        await product.start("postgres")
    delivered = ["first-email", "next-email"]
    for key in posted:
        await eventually(lambda key=key: posts(product, conversation, key), RECOVERY)  # type: ignore[misc]
    for key in delivered:
        await eventually(lambda key=key: asyncio.to_thread(delivers, product, address, key), RECOVERY)  # type: ignore[misc]
    await eventually(lambda: uploads(product), RECOVERY)

    async def is_complete() -> bool:
        words = Counter(await first_words(product, conversation))
        assert words == Counter(["Hello?", "Here", *posted, *delivered])
        return True

    await eventually(is_complete, RECOVERY)
    await drained(product, [answer])
