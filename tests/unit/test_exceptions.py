"""Every suppressed lint rule has a reason next to it, which the linter itself cannot enforce."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("shared", "services", "deploy", "examples", "bench", "tests")
UNEXPLAINED = re.compile(r"#\s*(?:ruff: *)?noqa\b(?!: [A-Z]+[0-9]+(?:, [A-Z]+[0-9]+)* - \S)")


def test_every_exception_in_the_code_has_a_reason() -> None:
    unexplained = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if UNEXPLAINED.search(line) and path != Path(__file__)
    ]
    assert not unexplained


def test_every_exception_in_the_settings_has_a_reason() -> None:
    settings = (ROOT / "pyproject.toml").read_text()
    [rules] = re.findall(r"^\[tool\.ruff\.lint\]\n(.*?)^\[tool\.mypy\]", settings, re.DOTALL | re.MULTILINE)
    exceptions = [line for line in rules.splitlines() if re.search(r'"[A-Z]+[0-9]*"', line) and "select" not in line]
    assert len(exceptions) > 10
    assert not [line for line in exceptions if not re.search(r"# \S", line)]
