#!/bin/sh
# Celery 5.7.0: `app.worker_main()`, like `celery worker`, imports the plugins of all other commands of the command line. Where
# Flower 2.2.0 is installed, every worker holds Flower, its web server Tornado and its client's prompt.
# Expected: a worker loads what it runs; the plugins are read when a command of that name is called.
# The script fails if a worker starts without them.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check celery==5.7.0 flower==2.2.0
cat > "$folder/worker.py" <<'PY'
import os
import sys

from celery import Celery
from celery.signals import celeryd_init

app = Celery(broker="memory://")
NAMES = ("flower.command", "tornado.web", "prometheus_client")


@celeryd_init.connect
def report(**_):
    loaded = [name for name in NAMES if name in sys.modules]
    print(f"a worker has loaded: {', '.join(loaded) or 'nothing of Flower'}", flush=True)
    os._exit(loaded != list(NAMES))


before = [name for name in NAMES if name in sys.modules]
assert not before, before
app.worker_main(["worker", "--pool=solo"])
PY
cd "$folder"
"$folder/venv/bin/python" worker.py
