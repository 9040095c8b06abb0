"""The supervisor of `make run` with stand-in children: it reports every exit, and no process outlives it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from deploy.local.processes import MARK, Child, Record
from deploy.local.supervisor import StartError, Supervisor
from tests.helpers.waiting import eventually

SLEEPS = "import time; time.sleep(600)"
IGNORES_SIGTERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEPS}"
HAS_A_CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPS!r}]); {SLEEPS}"

# A supervisor in its own process, to be killed.
SUPERVISES = """
import asyncio, os, sys
from pathlib import Path
from deploy.local.processes import MARK, Child, Record
from deploy.local.supervisor import Supervisor

async def ready(): return True

async def main(data, code):
    os.environ[MARK] = str(data)
    supervisor = Supervisor(Record(data / "processes.json", str(data)), print)
    await supervisor.start(
        Child(name="child", command=[sys.executable, "-c", code], log=data / "log", ready=ready), within=5
    )
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


async def yes() -> bool:
    return True


@pytest.fixture
def reported() -> list[str]:
    return []


@pytest.fixture
async def supervisor(tmp_path: Path, reported: list[str]) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(Record(tmp_path / "processes.json", str(tmp_path)), reported.append)
    yield supervisor
    await supervisor.stop()


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., Child]:
    def make(code: str = SLEEPS, name: str = "child", grace: float = 5.0) -> Child:
        # The name is among the arguments so that a test can find the process by it.
        command = [sys.executable, "-c", code, f"{name} of {tmp_path}"]
        environment = {**os.environ, MARK: str(tmp_path)}
        log = tmp_path / f"{name}.log"
        return Child(name=name, command=command, environment=environment, log=log, ready=yes, grace=grace)

    return make


def running(directory: Path) -> list[psutil.Process]:
    """Return every living process that a supervisor started for this directory, and their children."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(directory) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


async def test_a_crashed_child_is_reported_and_restarted(
    supervisor: Supervisor, child: Callable[..., Child], reported: list[str], tmp_path: Path
) -> None:
    await supervisor.start(child(), within=5)
    [first] = running(tmp_path)
    first.kill()

    await eventually(lambda: [process for process in running(tmp_path) if process.pid != first.pid])
    assert reported[0].startswith("child was ended by SIGKILL; restarting in 0.5 s")


async def test_the_delay_grows_while_a_child_keeps_crashing(
    supervisor: Supervisor, child: Callable[..., Child], reported: list[str]
) -> None:
    await supervisor.start(child("print('no luck'); raise SystemExit(3)"), within=5)
    await eventually(lambda: len(reported) == 3)
    assert ["0.5 s" in reported[0], "1 s" in reported[1], "2 s" in reported[2]] == [True] * 3
    assert "ended with exit code 3" in reported[0]
    assert reported[0].endswith("no luck")


async def test_the_children_of_a_crashed_child_end_before_its_restart(
    supervisor: Supervisor, child: Callable[..., Child], reported: list[str], tmp_path: Path
) -> None:
    await supervisor.start(child(HAS_A_CHILD), within=5)
    await eventually(lambda: len(running(tmp_path)) == 2)
    first = running(tmp_path)
    next(p for p in first if p.ppid() == os.getpid()).kill()

    await eventually(lambda: reported)
    assert not [p for p in first if p in running(tmp_path)]


async def test_stopping_ends_the_last_stage_first_and_leaves_nothing(
    supervisor: Supervisor, child: Callable[..., Child], tmp_path: Path
) -> None:
    reports = (
        "import signal, sys, time\n"
        "def end(*_): open(sys.argv[1].split(' of ')[1] + '/order', 'a').write(sys.argv[1][0]); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(600)"
    )
    await supervisor.start(child(reports, "a"), within=5)
    await supervisor.start(child(reports, "b"), child(reports, "c"), within=5)
    await eventually(lambda: all("up" in (tmp_path / f"{name}.log").read_text() for name in "abc"))
    await supervisor.stop()

    order = (tmp_path / "order").read_text()
    assert sorted(order[:2]) == ["b", "c"]
    assert order[2] == "a"
    assert not running(tmp_path)
    assert not (tmp_path / "processes.json").exists()


async def test_a_child_that_ignores_sigterm_is_killed_after_its_grace_period(
    supervisor: Supervisor, child: Callable[..., Child], tmp_path: Path
) -> None:
    await supervisor.start(child(IGNORES_SIGTERM, grace=0.2), within=5)
    await eventually(lambda: "deaf" in (tmp_path / "child.log").read_text())
    await asyncio.wait_for(supervisor.stop(), 30)
    assert not running(tmp_path)


async def test_a_second_ctrl_c_kills_at_once(
    supervisor: Supervisor, child: Callable[..., Child], tmp_path: Path
) -> None:
    await supervisor.start(child(IGNORES_SIGTERM, grace=600), within=5)
    await eventually(lambda: "deaf" in (tmp_path / "child.log").read_text())
    stopping = asyncio.create_task(supervisor.stop())
    supervisor.kill()
    await asyncio.wait_for(stopping, 30)
    assert not running(tmp_path)


async def test_a_child_that_ends_while_starting_is_reported_with_its_last_line(
    supervisor: Supervisor, child: Callable[..., Child]
) -> None:
    async def never() -> bool:
        return False

    broken = child("raise SystemExit('CHATS_AUTH_SECRET is not set')")
    broken = Child(name="api", command=broken.command, log=broken.log, ready=never)
    with pytest.raises(StartError, match=r"api ended with exit code 1 while starting:\n +CHATS_AUTH_SECRET is"):
        await supervisor.start(broken, within=5)


async def test_a_child_that_never_becomes_ready_is_reported(
    supervisor: Supervisor, child: Callable[..., Child]
) -> None:
    async def never() -> bool:
        return False

    slow = child()
    slow = Child(name="slow", command=slow.command, log=slow.log, ready=never)
    with pytest.raises(StartError, match=r"slow is not ready after 0.2 s"):
        await supervisor.start(slow, within=0.2)


async def test_a_failing_one_shot_command_is_reported(supervisor: Supervisor, child: Callable[..., Child]) -> None:
    await supervisor.run(child("print('fine')", "demo"))
    with pytest.raises(StartError, match=r"migrate ended with exit code 2:\n +no such database"):
        await supervisor.run(child("print('no such database'); raise SystemExit(2)", "migrate"))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
async def test_a_killed_supervisor_leaves_no_child(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISES, tmp_path, SLEEPS]) as supervisor:  # noqa: ASYNC220, S603 - its own process, to be killed
        await eventually(lambda: len(running(tmp_path)) == 1)
        supervisor.send_signal(signal.SIGKILL)
    await eventually(lambda: not running(tmp_path))


async def test_the_next_start_ends_the_orphans_of_a_killed_supervisor(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISES, tmp_path, HAS_A_CHILD]) as supervisor:  # noqa: ASYNC220, S603 - its own process, to be killed
        await eventually(lambda: len(running(tmp_path)) == 2)
        supervisor.send_signal(signal.SIGKILL)
    assert running(tmp_path)  # at least its grandchild

    record = Record(tmp_path / "processes.json", str(tmp_path))
    assert await asyncio.to_thread(record.end_survivors)
    assert not running(tmp_path)
    assert not await asyncio.to_thread(record.end_survivors)


async def test_a_pid_reused_by_another_process_is_not_ended(tmp_path: Path) -> None:
    record = tmp_path / "processes.json"
    record.write_text(f'{{"api": [{os.getpid()}, 1.0]}}')
    assert not Record(record, str(tmp_path)).end_survivors()
