#!/bin/sh
# inscriptis 2.7.6: `get_text` writes each document into the styles that all documents share. The default styles keep the text of
# the last document, and of two that threads read at the same time, the second one gets what is written for the first.
# Expected: a function from a text to a text keeps nothing, so threads can call it.
# The script fails if the styles keep nothing, or the documents have what is theirs.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check inscriptis==2.7.6 lxml==6.1.3
cat > "$folder/documents.py" <<'PY'
import threading

from inscriptis import get_text
from inscriptis.css_profiles import CSS_PROFILES
from inscriptis.model.config import ParserConfig
from inscriptis.model.html_document_state import HtmlDocumentState

get_text("<p>To Anna</p>")
kept = CSS_PROFILES["relaxed"]["body"].canvas.get_text().strip()
print(f"after get_text, the default styles keep: {kept}")
assert kept == "To Anna"

config = ParserConfig()
states = {}


def begin(name):
    states[name] = HtmlDocumentState(config)


for name in ("first", "second"):
    thread = threading.Thread(target=begin, args=(name,))
    thread.start()
    thread.join()
first, second = states["first"], states["second"]
assert first.tags[0].canvas is second.canvas and first.canvas is not second.canvas
print("what is written into the body of the first document goes to the second")
PY
"$folder/venv/bin/python" "$folder/documents.py"
