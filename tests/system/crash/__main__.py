"""Print at how many crash points the guarantees hold: `python -m tests.system.crash`, optionally with actors' names.

With `--every-time` a process dies each time it reaches a point, not only the first time: half an hour or more.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.system.crash.rig import STAGES, running_rig


async def _cover(actors: list[str], *, every_time: bool) -> bool:
    covered = []
    with tempfile.TemporaryDirectory() as directory:
        async with running_rig(Path(directory)) as rig:
            for actor in actors:
                covered.append(await rig.cover(STAGES[actor], every_time=every_time))
                print(covered[-1], flush=True)  # noqa: T201 - a command
    points, broken = sum(stage.points for stage in covered), sum(len(stage.broken) for stage in covered)
    print(f"crash points covered {points - broken} of {points}")  # noqa: T201 - a command
    return not broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("actors", nargs="*", metavar="actor", help=f"one of {', '.join(STAGES)}")
    parser.add_argument("--every-time", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.actors) - set(STAGES):
        parser.error(f"unknown actor {', '.join(sorted(unknown))}")
    kept = asyncio.run(_cover(arguments.actors or list(STAGES), every_time=arguments.every_time))
    sys.exit(not kept)


if __name__ == "__main__":
    main()
