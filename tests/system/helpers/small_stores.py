"""The small stores in `examples`, started with the commands in their READMEs."""

import re
import shutil
import sys
from pathlib import Path

from deploy.local.processes import Child
from deploy.local.readiness import accepts
from tests.system.helpers.processes import without_settings
from tests.system.helpers.product import SECRET

EXAMPLES = Path(__file__).parents[3] / "examples"
PROGRAMS = {"django": "python3", "flask": "python3", "express": "npm", "php": "php"}


def is_installed(name: str) -> bool:
    """Return whether a store's runtime is on this machine."""
    return shutil.which(PROGRAMS[name]) is not None


def small_store(name: str, directory: Path, port: int, chats_url: str, webhook_secret: str) -> Child:
    """Describe a store, in a copy of its folder, with our own Python packages."""
    folder = directory / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("node_modules", ".venv", "data", "*.db"))
    environment = {
        "CHATS_URL": chats_url,
        "CHATS_AUTH_SECRET": SECRET,
        "CHATS_WEBHOOK_SECRET": webhook_secret,
        "STORE_URL": f"http://127.0.0.1:{port}",
        "STORE_SECRET": SECRET[::-1],
    }
    return Child(
        name=name,
        command=["bash", "-c", script(name).replace("8090", str(port))],
        directory=folder,
        log=directory / f"{name}.log",
        ready=accepts("127.0.0.1", port),
        environment=without_settings() | environment,
    )


def script(name: str) -> str:
    """Return the commands in a store's README; the last one is the server."""
    [block] = re.findall(r"```sh\n(.*?)```", (EXAMPLES / name / "README.md").read_text(), re.DOTALL)
    lines = [line for line in block.splitlines() if "-m venv" not in line]
    return "\n".join(["set -e", *lines[:-1], f"exec {lines[-1]}"]).replace(
        ".venv/bin", str(Path(sys.executable).parent)
    )
