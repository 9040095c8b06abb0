"""The table that a run prints, in Markdown."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from bench.chaos.history import History
from bench.chaos.nemesis import Nemesis
from bench.chaos.verdict import Verdict
from bench.chaos.watch import Struck, Watch


def percentiles(seconds: Iterable[float]) -> str:
    """Format the p50, the p99 and the maximum."""
    ordered = sorted(seconds)
    if not ordered:
        return "none"
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99))
    return f"{_time(p50)}, {_time(p99)}, {_time(ordered[-1])}"


def rows(
    history: History, nemesis: Nemesis, watch: Watch, verdict: Verdict, *, writing: float, drained: float | None
) -> Iterator[tuple[str, str]]:
    """Yield the rows: what happened, how fast it was, what is wrong."""
    posts = len(history.posted)
    gone = posts - len(history.kept)
    yield (
        "posts acknowledged",
        f"{posts:,} ({posts / writing:.0f}/s; {gone:,} of them in {len(history.deleted)} deleted conversations)",
    )
    yield "writers' retries", f"{history.retries:,}"
    yield from _faults(watch.struck)
    yield "processes that ended by themselves", _counts(nemesis.ended) or "none"
    yield (
        "fault to caught up: p50, p99, max",
        percentiles(fault.caught_up for fault in watch.struck if fault.caught_up is not None),
    )
    yield "post answered, calm: p50, p99, max", percentiles(history.post_seconds[True])
    yield "post answered, under faults", percentiles(history.post_seconds[False])
    yield "post to notification, calm", percentiles(watch.record_seconds[True])
    yield "post to notification, under faults", percentiles(watch.record_seconds[False])
    yield "all finished after", f"{drained:.1f} s" if drained is not None else "never"
    for name, fact in verdict.facts.items():
        yield name, _counts(fact) or "0" if isinstance(fact, Counter) else f"{fact:,}"
    lost = sum(verdict.faults.get(name, 0) for name in LOSSES)
    bound = f"; 0 of N = {posts:,}: fewer than {3 / posts:.1e} with 95 % confidence (3/N)" if posts and not lost else ""
    yield "**lost**", f"**{lost}**{bound}"
    for name, count in (verdict.faults | dict(history.odd)).items():
        yield name, f"{count}{' ← FAULT' if count else ''}"
    for mishap in nemesis.mishaps:
        yield "did not recover", f"{mishap} ← FAULT"


LOSSES = (
    "acknowledged, but not in the store",
    "without a notification",
    "in no email",
    "recorded as sent, but not accepted by the server",
    "missing from the email that was sent for it",
    "replies acknowledged, but no message",
    "events in no webhook",
    "messages in no webhook",
)


def show(title: str, table: Iterable[tuple[str, str]]) -> None:
    """Print a table."""
    print(f"\n| {title} | |\n| --- | --- |")
    for name, value in table:
        print(f"| {name} | {value} |", flush=True)


def _faults(struck: Sequence[Struck]) -> Iterator[tuple[str, str]]:
    yield "faults struck", str(len(struck))
    for kind in sorted({fault.kind for fault in struck}):
        targets = Counter(fault.target for fault in struck if fault.kind == kind)
        yield kind, f"{targets.total()} ({_counts(targets)})"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
