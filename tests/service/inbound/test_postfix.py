"""A real Postfix delivers to the intake, with the lines of docs/inbound-email.md. Skipped without Postfix and root."""

import asyncio
import os
import re
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.ports import free_ports
from tests.helpers.waiting import eventually
from tests.service.inbound.rig import DOMAIN, SENDER, Rig

POSTFIX = "/usr/sbin/postfix"
SERVICES = """
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
verify unix - - n - 1 verify
error unix - - n - - error
retry unix - - n - - error
lmtp unix - - n - - lmtp
smtp unix - - n - - smtp
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
pytestmark = pytest.mark.skipif(
    not Path(POSTFIX).exists() or os.geteuid() != 0 or not shutil.which("postconf"), reason="needs Postfix, as root"
)


def documented_lines(lmtp: int) -> str:
    """Return the lines for `main.cf` as the documentation has them, with this test's domain and port."""
    text = Path("docs/inbound-email.md").read_text()
    match = re.search(r"Postfix, `main\.cf`.*?```\n(.*?)```", text, re.DOTALL)
    assert match is not None
    return match[1].replace("reply.store.example", DOMAIN).replace(":8024", f":{lmtp}")


@contextmanager
def postfix(lmtp: int) -> Iterator[int]:
    """Run a Postfix of its own; yield its SMTP port."""
    [port] = free_ports([0])
    with tempfile.TemporaryDirectory(prefix="postfix-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        for folder in ("etc", "spool", "data"):
            (directory / folder).mkdir(mode=0o755)
        shutil.chown(directory / "data", "postfix")
        main = f"""
compatibility_level = 3.6
queue_directory = {directory}/spool
data_directory = {directory}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mail.store.test
mydestination =
mynetworks =
inet_interfaces = loopback-only
inet_protocols = ipv4
maillog_file = /dev/stdout
alias_maps =
local_recipient_maps =
smtputf8_enable = yes
address_verify_poll_count = 10
address_verify_poll_delay = 1s
{documented_lines(lmtp)}
"""
        (directory / "etc" / "main.cf").write_text(main)
        (directory / "etc" / "master.cf").write_text(SERVICES.format(port=port))
        command = [POSTFIX, "-c", f"{directory}/etc"]
        log = (directory / "log").open("w")
        process = subprocess.Popen([*command, "start-fg"], stdout=log, stderr=log)  # noqa: S603 - a program of the system
        try:
            yield port
        finally:
            subprocess.run([*command, "stop"], check=False, capture_output=True)  # noqa: S603 - as above
            process.wait(30)
            log.close()


async def test_postfix_delivers_a_reply_and_refuses_a_forged_address(rig: Rig) -> None:
    await rig.send_email()
    with postfix(rig.port) as port:

        def is_listening() -> bool:
            try:
                smtplib.SMTP("127.0.0.1", port, timeout=5).quit()
            except OSError:
                return False
            return True

        async def ready() -> bool:
            return await asyncio.to_thread(is_listening)

        await eventually(ready)

        def dialogue() -> tuple[int, int]:
            with smtplib.SMTP("127.0.0.1", port, timeout=60) as server:
                server.ehlo()
                server.mail(SENDER)
                forged, _ = server.rcpt(f"reply+{'a' * 52}@{DOMAIN}")
                good, _ = server.rcpt(rig.address)
                code, _ = server.data(rig.reply("Über Postfix").as_bytes())
                assert good == 250
                return forged, code

        forged, accepted = await asyncio.to_thread(dialogue)
        assert (forged, accepted) == (550, 250)

        async def arrived() -> bool:
            return await rig.states() == [("received", None)]

        await eventually(arrived, deadline=60)
    await rig.post()
    [message] = await rig.messages()
    assert message["body"] == "Über Postfix"
