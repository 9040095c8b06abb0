"""Compare this checkout with its merge base in under five minutes: `python -m bench.quick`, BASE=main, ROUNDS=11.

Both run side by side and take turns; `bench/quick_measured.py` measures each. A ratio below 1 is cheaper than the merge
base. The interval holds the median ratio with more than 95 % confidence (by order statistics). ONLY=message measures
one of the workloads. BRIEF=1, for CI, measures requests only, with fewer of them, for a quarter of a minute at most.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

BRIEF = bool(os.environ.get("BRIEF"))
ROUNDS = int(os.environ.get("ROUNDS", "6" if BRIEF else "11"))
ONLY = os.environ.get("ONLY")  # one of the workloads
BRIEF_SECONDS = 15


def main() -> None:
    """Build the merge base beside this checkout, measure both in turns, and print the ratios."""
    here = Path(__file__).resolve().parent.parent
    base = _find_base(here)
    if base is None:
        print("Not compared: this clone has no commit before this one. `git fetch --unshallow` gets them.")
        return
    print(f"against {_git(here, 'log', '-1', '--format=%h %s', base)}")
    if _git(here, "diff", "--name-only", base, "--", "requirements.lock"):
        print("requirements.lock has changed since: both run with the packages of this checkout")
    print()
    with tempfile.TemporaryDirectory() as name:
        checkout = Path(name) / "base"
        _git(here, "worktree", "add", "--detach", str(checkout), base)
        try:
            with _Measured(checkout) as old, _Measured(here) as new:  # both start at the same time
                _compare(old, new)
        finally:
            _git(here, "worktree", "remove", "--force", str(checkout))


def _find_base(here: Path) -> str | None:
    """Return the merge base with the main branch, or the parent of a commit on it. None in a clone without either."""
    head = _git(here, "rev-parse", "HEAD")
    for branch in [os.environ["BASE"]] if "BASE" in os.environ else ["main", "origin/main"]:
        base = _git(here, "merge-base", head, branch, check=False)
        if base not in {"", head}:
            return base
    return _git(here, "rev-parse", "--verify", "--quiet", f"{head}~1", check=False) or None


def _compare(old: "_Measured", new: "_Measured") -> None:
    old.read_workloads()
    new.read_workloads()
    begun = time.monotonic()
    print(f"{'':24} {'before':>8} {'now':>8} {'ratio':>7}   interval")
    for workload in new.workloads:
        if workload not in old.workloads or ONLY not in {None, workload}:
            continue
        if BRIEF and time.monotonic() - begun > BRIEF_SECONDS:
            print(f"{workload:24} not measured: {BRIEF_SECONDS} s are over")
            continue
        for checkout in (old, new):  # warm up
            checkout.run(workload)
        rounds = []
        for number in range(ROUNDS):
            pair = (old, new) if number % 2 else (new, old)
            costs = {checkout: checkout.run(workload) for checkout in pair}
            rounds.append((costs[old], costs[new]))
        for cost in rounds[0][0]:
            _print(cost, [(before[cost], now[cost]) for before, now in rounds])


def _print(cost: str, rounds: Sequence[tuple[float, float]]) -> None:
    ratios = sorted(now / before for before, now in rounds)
    low, high = _interval(ratios)
    before, now = (statistics.median(costs) for costs in zip(*rounds, strict=True))
    print(f"{cost:24} {before:8.0f} {now:8.0f} {statistics.median(ratios):7.2f}   {low:.2f} to {high:.2f}", flush=True)


def _interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Return the narrowest pair of order statistics that holds the median with at least 95 % confidence."""
    count = len(ordered)
    outside, rank = 0.0, 0
    while 2 * (outside + math.comb(count, rank) / 2**count) <= 0.05:
        outside += math.comb(count, rank) / 2**count
        rank += 1
    rank = max(rank - 1, 0)
    return ordered[rank], ordered[-1 - rank]


class _Measured:
    """A process that measures a checkout, on request."""

    def __init__(self, checkout: Path) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__; the cost of log lines counts
        self._process = subprocess.Popen(  # noqa: S603 - our own file, which imports the checkout's packages
            [sys.executable, str(Path(__file__).resolve().with_name("quick_measured.py"))],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.workloads: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._log.close()

    def read_workloads(self) -> None:
        """Wait until it is ready, and read the names of its workloads."""
        self.workloads = self._answer()

    def run(self, workload: str) -> dict[str, float]:
        """Run a workload once; return its costs by name and unit."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{workload}\n")
        self._process.stdin.flush()
        costs: dict[str, float] = self._answer()
        return costs

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            raise SystemExit(f"the measuring process ended with {code}:\n{''.join(self._log.readlines()[-20:])}")
        return json.loads(line)


def _git(directory: Path, *arguments: str, check: bool = True) -> str:
    """Return the output of git; without `check` an empty one if it fails."""
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=directory, check=check, capture_output=True, text=True)  # noqa: S603 - git
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    main()
