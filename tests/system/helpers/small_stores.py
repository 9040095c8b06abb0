"""The small stores in `examples`, started with the commands in their READMEs."""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.processes import Child
from deploy.local.readiness import accepts

EXAMPLES = Path(__file__).parents[3] / "examples"
PROGRAMS = {"php": "php", "flask": "python3", "django": "python3", "express": "npm"}  # those that start soonest first


def why_not(name: str) -> str:
    """Return why a store cannot be started here; empty if it can."""
    if shutil.which(PROGRAMS[name]) is None:
        return f"{PROGRAMS[name]} is not installed"
    # CI does not wait for a second registry.
    return "npm installs its packages: set EVERY_CASE=1" if name == "express" and "EVERY_CASE" not in os.environ else ""


def small_store(name: str, directory: Path, environment: Mapping[str, str]) -> Child:
    """Describe a store at STORE_URL, in a copy of its folder, with our own Python packages."""
    folder, port = directory / name, urlsplit(environment["STORE_URL"]).port or 0
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("node_modules", ".venv", "data", "*.db"))
    return Child(
        name=name,
        command=["bash", "-c", script(name).replace("8090", str(port))],
        directory=folder,
        log=directory / f"{name}.log",
        ready=accepts("127.0.0.1", port),
        environment=environment,
    )


def script(name: str) -> str:
    """Return the commands in a store's README; the last one is the server."""
    [block] = re.findall(r"```sh\n(.*?)```", (EXAMPLES / name / "README.md").read_text(), re.DOTALL)
    lines = [line for line in block.splitlines() if "-m venv" not in line]
    return "\n".join(["set -e", *lines[:-1], f"exec {lines[-1]}"]).replace(
        ".venv/bin", str(Path(sys.executable).parent)
    )
