"""A database is restored from an older backup with PostgreSQL's tools, under a product that has moved on."""

import asyncio
from pathlib import Path

from deploy.local.postgres import WHEEL
from tests.helpers.smtp_server import SmtpServer
from tests.helpers.waiting import eventually
from tests.system.helpers.product import Product


async def run(program: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        WHEEL / "pginstall" / "bin" / program, *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, output = await process.communicate()
    assert process.returncode == 0, output.decode()


async def back_up(product: Product, service: str, file: Path) -> None:
    url = product.owner_urls[service]
    await run("pg_dump", "--format=custom", f"--file={file}", f"--dbname={url}")


async def restore(product: Product, service: str, file: Path) -> None:
    url = product.owner_urls[service]
    await run("pg_restore", "--clean", "--if-exists", "--single-transaction", f"--dbname={url}", str(file))


async def recorded(product: Product, expected: list[str]) -> bool:
    return sorted(await product.records()) == sorted(expected)


async def mailed(product: Product, message: str) -> bool:
    return any(message in email["message_ids"] and email["state"] == "sent" for email in await product.emails())


async def caught_up(product: Product) -> bool:
    """Return whether the sweeper has read the log to its end; events that it has not read are lost to it."""
    return ", 0 behind the log" in (await product.chats("status"))[1]


async def test_an_older_log_is_noticed_and_notifications_match_the_store_again(
    product: Product, tmp_path: Path
) -> None:
    conversation = await product.open_conversation()
    kept = [await product.reply(conversation)]
    await eventually(lambda: recorded(product, kept))
    await eventually(lambda: caught_up(product))
    await back_up(product, "conversations", tmp_path / "backup")
    lost = [await product.reply(conversation) for _ in range(3)]
    await eventually(lambda: recorded(product, kept + lost))

    await product.stop("api", "relay", "jobs", "thumbnails")
    await restore(product, "conversations", tmp_path / "backup")
    await product.start("api", "relay", "jobs", "thumbnails")
    kept.append(await product.reply(conversation, "Once more."))

    await eventually(lambda: recorded(product, kept))
    await eventually(lambda: mailed(product, kept[-1]))
    _, status = await product.chats("status")
    assert "the log was restored from a backup" in status


async def test_an_email_is_not_repeated_when_the_service_has_lost_its_record(
    product: Product, mail_server: SmtpServer, tmp_path: Path
) -> None:
    before = await product.records()
    conversation = await product.open_conversation("ben", "Wrong size")
    first = await product.reply(conversation, "Known to the backup.")
    await eventually(lambda: mailed(product, first))
    await back_up(product, "notifications", tmp_path / "backup")
    forgotten = [await product.reply(conversation, "Forgotten by the backup.")]
    await eventually(lambda: mailed(product, forgotten[0]))

    await eventually(lambda: caught_up(product))

    sweeper_log = product.directory / "sweeper.log"
    await product.stop("worker", "sweeper", "notifications-api", "inbound")
    await restore(product, "notifications", tmp_path / "backup")
    await product.start("notifications-api", "worker", "sweeper", "inbound")
    # An email that is due before the sweeper has noticed the restore may have been sent: it stays unsent.
    await eventually(lambda: "database was restored, emails on hold" in sweeper_log.read_text())
    new = await product.reply(conversation, "After the restore.")

    await eventually(lambda: mailed(product, new), deadline=40)
    assert sorted(await product.records("ben")) == sorted([first, *forgotten, new])
    assert sorted(await product.records()) == sorted(before)
    copies = [email for email in mail_server.emails if b"Forgotten by the backup." in email.content]
    assert len(copies) == 1
    _, failed = await product.chats("emails", "list", "--state", "failed")
    assert "restored" in failed
