"""The small stores stay small, and their dependencies are those that the tests run with, without names of hosts."""

import ast
import json
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
MAX_LINES = 120
NOT_READ = {"README.md", "requirements.in", "requirements.txt", "package-lock.json"}
STORES = ("django", "express", "flask", "php")


def lines_of_code(path: Path) -> int:
    """Count the lines that are neither blank nor a comment nor a docstring."""
    lines = path.read_text().splitlines()
    described = set[int]()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                described |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return sum(
        bool(line.strip()) and number not in described and not line.strip().startswith(("#", "//", "/**"))
        for number, line in enumerate(lines, 1)
    )


def sources(store: str) -> list[Path]:
    """Return what a reader of a store reads, without what running it leaves behind."""
    made = {"node_modules", ".venv", "data", "__pycache__"}
    files = [path for path in (EXAMPLES / store).rglob("*") if path.is_file()]
    return [path for path in files if path.name not in NOT_READ and path.suffix != ".db" and not made & {*path.parts}]


@pytest.mark.parametrize("store", STORES)
def test_a_store_has_at_most_120_lines_as_the_table_says(store: str) -> None:
    count = sum(map(lines_of_code, sources(store)))
    assert count <= MAX_LINES
    [stated] = re.findall(rf"^\| \[{store}\].*?\| (\d+) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert int(stated) == count


def test_the_token_of_the_documentation_is_signed_as_in_a_store() -> None:
    [snippet] = re.findall(
        r"^  ```python\n(.*?)^  ```", (ROOT / "docs/embedding.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert textwrap.dedent(snippet) in (EXAMPLES / "flask" / "chats.py").read_text()


@pytest.mark.parametrize("store", ["django", "flask"])
def test_python_packages_are_those_of_our_lock(store: str) -> None:
    locked = (ROOT / "requirements.lock").read_text()
    pins = re.findall(
        r"^\S+==.*?(?=^\S|\Z)", (EXAMPLES / store / "requirements.txt").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(pins) > 10
    for pin in pins:
        name, hashes = pin.split(" ")[0], re.findall(r"sha256:\w+", pin)
        assert name in locked, "run `make lock`"
        assert hashes, name
        assert all(value in locked for value in hashes), name


def test_node_packages_are_pinned_by_their_hashes_alone() -> None:
    packages = json.loads((EXAMPLES / "express" / "package-lock.json").read_text())["packages"]
    wanted = json.loads((EXAMPLES / "express" / "package.json").read_text())["dependencies"]
    assert packages.pop("")["dependencies"] == wanted
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    assert all("integrity" in package and "resolved" not in package for package in packages.values())
