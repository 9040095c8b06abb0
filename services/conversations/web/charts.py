"""Charts of pages: the paths of lines in a box of `WIDTH` by `HEIGHT`, which the page stretches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

WIDTH: Final = 300
HEIGHT: Final = 100
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_DURATIONS: Final = (
    *(5, 15, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 20 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR, 12 * _HOUR, _DAY, 2 * _DAY, 4 * _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY),
)


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart: its highest value, and the paths of each line and of its dots. `is_empty`: no line has a value."""

    top: float
    paths: Sequence[str]
    dots: Sequence[str]
    is_empty: bool


def count_chart(lines: Sequence[Sequence[float | None]]) -> Chart:
    """Return a chart of counts."""
    return _chart(lines, _round_count(_highest(lines)))


def duration_chart(lines: Sequence[Sequence[float | None]]) -> Chart:
    """Return a chart of seconds."""
    highest = _highest(lines)
    months = 30 * _DAY
    top = next((top for top in _DURATIONS if highest <= top), months * _round_count(highest / months))
    return _chart(lines, top)


def _highest(lines: Iterable[Sequence[float | None]]) -> float:
    return max((value for line in lines for value in line if value is not None), default=0)


def _round_count(highest: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, 50 and so on that is not below."""
    top = 1
    while top < highest:
        top = top * 5 // 2 if str(top).startswith("2") else top * 2
    return top


def _chart(lines: Sequence[Sequence[float | None]], top: float) -> Chart:
    is_empty = all(value is None for line in lines for value in line)
    parts = [_parts(line, top) for line in lines]
    paths = [" ".join(f"M{' L'.join(part)}" for part in line if len(part) > 1) for line in parts]
    dots = [" ".join(f"M{part[0]}h0" for part in line if len(part) == 1) for line in parts]
    return Chart(top, paths, dots, is_empty)


def _parts(line: Sequence[float | None], top: float) -> list[list[str]]:
    """Return the points of a line, apart where it has no value. A part of one point is a dot."""
    step = WIDTH / max(len(line) - 1, 1)
    points = (
        "" if value is None else f"{number * step:.4g} {HEIGHT - value / top * HEIGHT:.4g}"
        for number, value in enumerate(line)
    )
    return [list(part) for is_there, part in groupby(points, key=bool) if is_there]
