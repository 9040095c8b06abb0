#!/bin/sh
# Alembic 1.20.1 with SQLAlchemy 2.1.9: if env.py has run any query on the connection before `context.configure`, such as
# one for a lock, `context.begin_transaction()` begins and commits nothing, and the migrations are lost when the
# connection closes. No error, no warning: SQLAlchemy has begun a transaction for the query, which Alembic takes for one
# of the caller's.
# Expected: what happens without the query. The caller has begun no transaction, and asks Alembic for one.
# The script fails if either of them does otherwise.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check alembic==1.20.1 sqlalchemy==2.1.9
mkdir -p "$folder/migrations/versions"
cat > "$folder/migrations/env.py" <<'PY'
from alembic import context
from sqlalchemy import create_engine, text

with create_engine(context.config.attributes["url"]).connect() as connection:
    if context.config.attributes["asks"]:
        connection.execute(text("select 1"))
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
PY
cat > "$folder/migrations/versions/1_row.py" <<'PY'
from alembic import op

revision, down_revision = "1", None


def upgrade():
    op.execute("insert into kept values (1)")
PY
cat > "$folder/upgrade.py" <<'PY'
import sqlite3
import sys

from alembic import command
from alembic.config import Config


def rows(asks):
    file = f"{sys.argv[1]}/{asks}.db"
    with sqlite3.connect(file) as database:
        database.execute("create table kept (id int)")
    config = Config()
    config.set_main_option("script_location", f"{sys.argv[1]}/migrations")
    config.set_main_option("path_separator", "os")
    config.attributes.update(url=f"sqlite:///{file}", asks=asks)
    command.upgrade(config, "head")
    return len(sqlite3.connect(file).execute("select * from kept").fetchall())


without, after = rows(False), rows(True)
assert without == 1, without
assert after == 0, "after a query, the migration is committed too"
print("alembic: begin_transaction() commits the migration; after a query on the connection it commits nothing")
PY
"$folder/venv/bin/python" "$folder/upgrade.py" "$folder"
