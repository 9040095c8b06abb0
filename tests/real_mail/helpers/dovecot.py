"""A Dovecot with temporary mailboxes: LMTP for the mail server, IMAP for mail programs, Sieve."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import free_ports
from tests.real_mail.helpers.programs import TREE, running, set_owner

OWNER = "mail"
PASSWORD = "secret"

_CONFIGURATION = """
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
libexec_dir = {tree}/usr/lib/dovecot
mail_plugin_dir = {tree}/usr/lib/dovecot/modules
import_environment = LD_LIBRARY_PATH
default_internal_user = {owner}
default_internal_group = {owner}
default_login_user = nobody
first_valid_uid = 1
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
protocols = lmtp imap
mail_location = maildir:~/mail
mail_plugins = quota
quota_full_tempfail = no
auth_mechanisms = plain login
passdb {{
  driver = passwd-file
  args = {directory}/users
}}
userdb {{
  driver = passwd-file
  args = {directory}/users
}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
protocol lmtp {{
  mail_plugins = $mail_plugins sieve
  postmaster_address = postmaster@customer.test
}}
submission_host = 127.0.0.1:{submission}
plugin {{
  quota = maildir:User quota
  quota_max_mail_size = 0
  sieve = file:~/scripts;active=~/active.sieve
  sieve_extensions = +editheader
}}
"""


@dataclass(frozen=True)
class Dovecot:
    """A running Dovecot: its ports, and the log."""

    directory: Path
    lmtp: int
    imap: int


@contextmanager
def dovecot(
    directory: Path, lmtp: int, submission: int, users: Mapping[str, str], scripts: Mapping[str, str]
) -> Iterator[Dovecot]:
    """Run a Dovecot with mailboxes, each with a quota; empty is no quota."""
    [imap] = free_ports([0])
    set_owner(directory, "root", 0o755)
    lines = []
    for name, quota in users.items():
        home = set_owner(directory / "home" / name, OWNER)
        if name in scripts:
            (home / "active.sieve").write_text(scripts[name])
        rule = f"userdb_quota_rule=*:storage={quota}" if quota else ""
        lines.append(f"{name}@customer.test:{{PLAIN}}{PASSWORD}:{OWNER}:{OWNER}::{home}::{rule}\n")
    (directory / "home").chmod(0o755)
    (directory / "users").write_text("".join(lines))
    configuration = directory / "dovecot.conf"
    configuration.write_text(
        _CONFIGURATION.format(directory=directory, tree=TREE, owner=OWNER, lmtp=lmtp, imap=imap, submission=submission)
    )
    # What `dovecot -F` would do by the installed program's path.
    reader: list[str | Path] = [
        TREE / "usr/bin/doveconf",
        "-f",
        "service=master",
        "-c",
        configuration,
        "-m",
        "master",
        "-e",
    ]
    program: list[str | Path] = [TREE / "usr/sbin/dovecot", "-F", "-c", configuration]
    with running([*reader, *program], [lmtp, imap], directory / "output"):
        yield Dovecot(directory, lmtp, imap)
