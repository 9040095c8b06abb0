#!/bin/sh
# billiard 4.3.2: with cffi installed, `set_pdeathsig`, which each child of a Celery worker calls, parses a line of C to make one
# system call. cffi loads pycparser for it, in every child anew. Without cffi billiard uses ctypes and loads nothing.
# Expected: an optional package makes nothing slower or larger; the child only calls prctl.
# The script fails if a child does not load pycparser with cffi, or loads it without.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check billiard==4.3.2
cat > "$folder/children.py" <<'PY'
import signal
import sys

from billiard.pool import Pool
from billiard.util import set_pdeathsig


def loaded(_):
    return "pycparser" in sys.modules, sum(name.startswith(("cffi", "pycparser")) for name in sys.modules)


if __name__ == "__main__":
    assert "pycparser" not in sys.modules
    pool = Pool(2, initializer=set_pdeathsig, initargs=(signal.SIGKILL,))
    answers = set(pool.map(loaded, range(8)))
    pool.terminate()
    pool.join()
    assert "pycparser" not in sys.modules  # the parent has none that the children could share
    print(f"{sys.argv[1]}: pycparser loaded and modules of cffi and pycparser in a child: {sorted(answers)}")
    assert {has for has, _ in answers} == {sys.argv[1] == "with cffi"}, answers
PY
cd "$folder"
"$folder/venv/bin/python" children.py "without cffi"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check cffi==2.1.1 pycparser==3.12
"$folder/venv/bin/python" children.py "with cffi"
