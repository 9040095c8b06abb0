#!/bin/sh
# asyncpg 0.32.0 with msgspec 0.22.0: the UUIDs that asyncpg's queries return take a multiple of the time of Python's to be
# written as JSON, and more than their `str` written as a string (measured with CPython 3.11). msgspec reads the attribute
# `int`. Python's UUID stores it; asyncpg's stores bytes, makes the integer of them when it is first asked, and keeps it.
# Each query returns new ones, so the first time is what counts.
# Expected: a UUID that was written to be fast is no slower to encode, and `str` in between is a detour.
# The script fails if new UUIDs of asyncpg take less than twice the time of Python's, or less than their `str` does.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check asyncpg==0.32.0 msgspec==0.22.0
cat > "$folder/encode.py" <<'PY'
import time
import uuid

import msgspec
from asyncpg.pgproto.pgproto import UUID

TEXTS = [str(uuid.uuid4()) for _ in range(1_000)]
encode = msgspec.json.Encoder().encode


def best(kind, through=None):
    """Return the seconds to encode 1,000 new UUIDs of this kind, the best of 200 times."""
    times = []
    for _ in range(200):
        ids = [kind(text) for text in TEXTS]
        started = time.perf_counter()
        encoded = encode(ids if through is None else [through(one) for one in ids])
        times.append(time.perf_counter() - started)
        assert encoded == encode(TEXTS)
    return min(times)


python, own, text = best(uuid.UUID), best(UUID), best(UUID, str)
for name, seconds in (("Python's UUID", python), ("asyncpg's UUID", own), ("str of asyncpg's UUID", text)):
    print(f"{name}: {seconds * 1e6:.0f} us for 1,000, {seconds / python:.1f} of Python's")
assert own > 2 * python and own > text
PY
"$folder/venv/bin/python" "$folder/encode.py"
