"""An Exim with temporary directories."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import free_ports
from tests.real_mail.helpers.postfix import DOCUMENT
from tests.real_mail.helpers.programs import ENVIRONMENT, TREE, running, set_owner

OWNER = "mail"

# The routers and transports of the documentation come after these, which are the tests' other domain.
_CONFIGURATION = """
keep_environment = ^LD_ : ^NSS_WRAPPER_
exim_path = {exim}
tls_advertise_hosts =
deliver_drop_privilege
exim_user = {owner}
exim_group = {owner}
primary_hostname = mail.store.test
spool_directory = {directory}/spool
log_file_path = {directory}/log-%s
pid_file_path = {directory}/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {mx}
domainlist relay_to_domains = {relayed_domains} : {domain} : {its_domain}
rfc1413_query_timeout = 0s
smtp_enforce_sync = false
queue_run_in_order
retry_interval_max = 2s
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
begin acl
rcpt:
  require domains = +relay_to_domains
{acl}
  accept
begin routers
{relayed}
{routers}
begin transports
relay:
  driver = smtp
  protocol = lmtp
  allow_localhost
  port = ${{extract{{$domain}}{{{relay_ports}}}}}
{transports}
begin retry
* * F,1h,1s
"""


@dataclass(frozen=True)
class Exim:
    """The port of a running Exim, and its log."""

    mx: int
    log: Path


def documented_parts(domain: str, address: str, lmtp: int) -> dict[str, str]:
    """Return the parts of Exim's configuration as the documentation has them, with our addresses and port."""
    match = re.search(r"^Exim asks.*?```\n(.*?)```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert match is not None
    local_part, _, its_domain = address.partition("@")
    text = match[1].replace("reply.store.example", domain).replace("port = 8024", f"port = {lmtp}")
    text = text.replace("= store.example", f"= {its_domain}").replace("= support\n", f"= {local_part}\n")
    pieces = re.split(r"^# (acl_smtp_rcpt|routers|transports)\b.*\n", text, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


@contextmanager
def exim(directory: Path, domain: str, address: str, lmtp: int, relayed: dict[str, int]) -> Iterator[Exim]:
    """Run an Exim that delivers our domain and address to our port, and other domains by LMTP to theirs."""
    [mx] = free_ports([0])
    set_owner(directory, OWNER, 0o755)
    parts = documented_parts(domain, address, lmtp)
    configuration = directory / "exim.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            owner=OWNER,
            exim=TREE / "usr/sbin/exim4",
            directory=directory,
            mx=mx,
            domain=domain,
            its_domain=address.partition("@")[2],
            relayed_domains=" : ".join(relayed),
            relay_ports=" ".join(f"{name}={port}" for name, port in relayed.items()),
            relayed=f"others:\n  driver = manualroute\n  domains = {' : '.join(relayed)}\n"
            "  route_list = * 127.0.0.1\n  transport = relay\n  self = send\n",
            acl=parts["acl_smtp_rcpt"],
            routers=parts["routers"],
            transports=parts["transports"],
        )
    )
    os.chown(configuration, 0, 0)
    # Debian's Exim does not start without its own user.
    for name, entry in (("passwd", "x:8:8::/:/bin/false"), ("group", "x:8:")):
        (directory / name).write_text(Path("/etc", name).read_text() + f"Debian-exim:{entry}\n")
    wrapper = next(TREE.glob("usr/lib/*/libnss_wrapper.so"))
    environment = ENVIRONMENT | {
        "LD_PRELOAD": str(wrapper),
        "NSS_WRAPPER_PASSWD": f"{directory}/passwd",
        "NSS_WRAPPER_GROUP": f"{directory}/group",
    }
    with running(
        [TREE / "usr/sbin/exim4", "-C", configuration, "-bdf", "-q1s"], [mx], directory / "output", environment
    ):
        yield Exim(mx, directory / "log-main")
