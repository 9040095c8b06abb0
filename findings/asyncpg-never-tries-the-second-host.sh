#!/bin/sh
# asyncpg 0.32.0: with several hosts, `timeout` bounds the whole of connecting, so a first host that accepts a
# connection and then says nothing uses all of it, and the second host is never tried.
# Expected: what libpq does with the same list of hosts (psycopg 3.3.4), where `connect_timeout` is for each host:
# the first host costs its share, and the second one is tried.
# The script fails if either of them does otherwise.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check asyncpg==0.32.0 'psycopg[binary]==3.3.4'
cat > "$folder/hosts.py" <<'PY'
import asyncio
import socket
import threading

import asyncpg
import psycopg


def listener():
    """Listen, take connections, and say nothing; count them."""
    server = socket.create_server(("127.0.0.1", 0))
    taken = []

    def run():
        while True:
            taken.append(server.accept())

    threading.Thread(target=run, daemon=True).start()
    return server.getsockname()[1], taken


def tried(connect):
    (first, one), (second, two) = listener(), listener()
    try:
        connect(first, second)
    except (TimeoutError, psycopg.OperationalError):
        pass
    return bool(one), bool(two)


def with_asyncpg(first, second):
    hosts = {"host": ["127.0.0.1", "127.0.0.1"], "port": [first, second]}
    asyncio.run(asyncpg.connect(**hosts, user="u", password="p", database="d", ssl=False, timeout=2))


def with_libpq(first, second):
    hosts = f"host=127.0.0.1,127.0.0.1 port={first},{second}"
    psycopg.connect(f"{hosts} user=u password=p dbname=d sslmode=disable gssencmode=disable connect_timeout=2")


assert tried(with_libpq) == (True, True), "libpq tries both hosts"
assert tried(with_asyncpg) == (True, False), "asyncpg gives up with the first host"
print("asyncpg: the second host was never tried; libpq: it was")
PY
"$folder/venv/bin/python" "$folder/hosts.py"
