#!/bin/sh
# pytest-xdist 3.8.0 with pytest 9.2.0: `--dist loadgroup` groups nothing, and says nothing.
#
# Eight tests have the mark `xdist_group("server")`. Seen: they run in several processes. Expected: in one, as with
# pytest 9.0.2. xdist appends the group to `Item._nodeid`, an attribute that pytest 9.2 no longer reads; the scheduler
# finds no group in the tests' ids.
#
# Fails if that has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/test_group.py" <<'PY'
import os
import time

import pytest


@pytest.mark.xdist_group("server")
@pytest.mark.parametrize("number", range(8))
def test_something(number):
    time.sleep(0.2)  # long enough for the other process to get its share
    with open(os.environ["USED"], "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
PY
processes() {
  python3 -m venv --clear "$folder/venv"
  "$folder/venv/bin/pip" --quiet --disable-pip-version-check install "pytest==$1" pytest-xdist==3.8.0
  USED="$folder/used-$1" "$folder/venv/bin/python" -m pytest -q -p no:cacheprovider -n 2 --dist loadgroup "$folder" >&2
  sort -u "$folder/used-$1" | wc -l
}
before=$(processes 9.0.2)
now=$(processes 9.2.0)
echo "processes that ran one group: $before with pytest 9.0.2, $now with pytest 9.2.0"
[ "$before" -eq 1 ] && [ "$now" -eq 2 ]
