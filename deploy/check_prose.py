"""Check the prose of code and docs: name the actor, use the imperative, keep commit subjects short.

It finds the patterns that a machine can find; `CONTRIBUTING.md` has the rules. Spelling is checked by `typos`.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = (
    "*.md",
    "Makefile",
    *(f"{folder}/**/*" for folder in ("bench", "deploy", "docs", "examples", "services", "shared", "tests", ".github")),
)
SUFFIXES = {".css", ".example", ".html", ".jinja", ".js", ".md", ".py", ".yml", ""}
PATTERNS = {
    "name the actor": re.compile(r"\b(whoever|whomever|whatever|whichever)\b", re.IGNORECASE),
    "name the actor, not “who …”": re.compile(r"(^|[.:;] |\"\"\"|# |// )Who (?!am\b|are\b|is\b)[a-z][^?]*[.,;]"),
    "use the imperative, not “let …”": re.compile(r"(\. |\"\"\"|# |// )Let (?!us\b)[a-z]"),
}
SUBJECT_LENGTH = 72
SUBJECTS_SINCE = "2026-11-28"  # older commits were made without this rule


def main() -> None:
    """Print every finding; exit with 1 when there is one."""
    findings = [*_find_in_files(), *_find_in_subjects()]
    print("\n".join(findings), end="\n" if findings else "")  # noqa: T201 - a command
    sys.exit(1 if findings else 0)


def _find_in_files() -> Iterator[str]:
    """Yield the lines of sources and documents that break a pattern."""
    for path in sorted(path for place in PLACES for path in ROOT.glob(place)):
        if path.suffix not in SUFFIXES or not path.is_file() or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for rule, pattern in PATTERNS.items():
                if found := pattern.search(line):
                    yield f"{path.relative_to(ROOT)}:{number}: {rule}: {found[0].strip()}"


def _find_in_subjects() -> Iterator[str]:
    """Yield the commits whose subject is too long; none outside a Git repository."""
    command = ["git", "-C", str(ROOT), "log", "--no-merges", f"--since={SUBJECTS_SINCE}", "--format=%h %s"]
    log = subprocess.run(command, check=False, capture_output=True, text=True).stdout  # noqa: S603 - constants
    for line in log.splitlines():
        commit, _, subject = line.partition(" ")
        if len(subject) > SUBJECT_LENGTH:
            yield f"commit {commit}: a subject of more than {SUBJECT_LENGTH} characters: {subject}"


if __name__ == "__main__":
    main()
