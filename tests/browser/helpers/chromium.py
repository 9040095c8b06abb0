"""Find the system's Chromium, which gets security updates."""

import os
import shutil

HEADED = bool(os.environ.get("HEADED"))
_WINDOWED = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_NAMES = _WINDOWED if HEADED else ("chromium-headless-shell", *_WINDOWED)  # the shell needs a third of the CPU

CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
"""The path of the browser."""
MISSING = "no Chromium on the PATH; on Debian: apt install chromium-headless-shell"
