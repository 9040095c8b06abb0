"""A Postfix with temporary directories."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import free_ports
from tests.real_mail.helpers.programs import ENVIRONMENT, TREE, running, set_owner

OWNER, DROP_GROUP = "list", "mail"  # of Debian's base system, and used by nothing else here
DAEMONS = TREE / "usr/lib/postfix/sbin"
DOCUMENT = Path(__file__).parents[3] / "docs" / "inbound-email.md"

_SERVICES = """
127.0.0.1:{mx} inet n - n - - smtpd
127.0.0.1:{submission} inet n - n - - smtpd
  -o smtpd_recipient_restrictions=permit_mynetworks,reject
  -o mynetworks=127.0.0.0/8
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
error unix - - n - - error
retry unix - - n - - error
lmtp unix - - n - - lmtp
smtp unix - - n - - smtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
# The queue directories that `postfix start` creates: those of the owner, and those that others write to.
_QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace")


@dataclass(frozen=True)
class Postfix:
    """The ports of a running Postfix: of the mail exchanger, and for the store's own emails; its log."""

    mx: int
    submission: int
    log: Path


def documented_lines(domain: str, address: str, lmtp: int, relayed: str) -> str:
    """Return the lines for `main.cf` as the documentation has them, with our addresses, port and more transports."""
    match = re.search(r"Postfix, `main\.cf`.*?```\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert match is not None
    text = match[1].replace("reply.store.example", domain).replace("support@store.example", address)
    return text.replace(":8024", f":{lmtp}").replace("inline:{", f"inline:{{ {relayed},", 1)


@contextmanager
def postfix(directory: Path, domain: str, address: str, lmtp: int, relayed: dict[str, int]) -> Iterator[Postfix]:
    """Run a Postfix that delivers our domain and address to our port, and other domains by LMTP to theirs."""
    mx, submission = free_ports([0, 0])
    set_owner(directory, "root", 0o755)
    spool = set_owner(directory / "spool", "root", 0o755)
    for name in _QUEUES:
        set_owner(spool / name, OWNER)
    set_owner(spool / "pid", "root", 0o755)
    for name, mode in (("maildrop", 0o730), ("public", 0o710)):
        shutil.chown(set_owner(spool / name, OWNER, mode), group=DROP_GROUP)
    set_owner(directory / "data", OWNER)
    etc = set_owner(directory / "etc", "root", 0o755)
    transports = ", ".join(f"{{ {name} = lmtp:inet:127.0.0.1:{port} }}" for name, port in relayed.items())
    (etc / "main.cf").write_text(f"""
compatibility_level = 3.6
queue_directory = {spool}
data_directory = {directory}/data
command_directory = {TREE}/usr/sbin
daemon_directory = {DAEMONS}
shlib_directory = {TREE}/usr/lib/postfix
meta_directory = {TREE}/etc/postfix
mail_owner = {OWNER}
setgid_group = {DROP_GROUP}
import_environment = MAIL_CONFIG LD_LIBRARY_PATH
myhostname = mail.store.test
mydestination =
mynetworks =
fast_flush_domains =
relay_domains = {" ".join(relayed)} {address.partition("@")[2]}
inet_interfaces = loopback-only
inet_protocols = ipv4
maillog_file = {directory}/log
maillog_file_prefixes = {directory}
alias_maps =
local_recipient_maps =
smtputf8_enable = yes
address_verify_poll_count = 20
address_verify_poll_delay = 1s
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 2s
delay_warning_time = 1s
{documented_lines(domain, address, lmtp, transports)}
""")
    (etc / "master.cf").write_text(_SERVICES.format(mx=mx, submission=submission))
    environment = ENVIRONMENT | {"MAIL_CONFIG": str(etc)}
    with running([DAEMONS / "master", "-d", "-c", etc], [mx, submission], directory / "output", environment):
        yield Postfix(mx, submission, directory / "log")
