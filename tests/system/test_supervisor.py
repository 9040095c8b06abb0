"""The supervisor of `make run`, with stand-in children: nothing dies unseen, nothing outlives it."""

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

# A supervisor in a process of its own, to be killed.
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
def said() -> list[str]:
    return []


@pytest.fixture
async def supervisor(tmp_path: Path, said: list[str]) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(Record(tmp_path / "processes.json", str(tmp_path)), said.append)
    yield supervisor
    await supervisor.stop()


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., Child]:
    def make(code: str = SLEEPS, name: str = "child", grace: float = 5.0) -> Child:
        # The name is among the arguments, so that a test finds the process by it.
        command = [sys.executable, "-c", code, f"{name} of {tmp_path}"]
        environment = {**os.environ, MARK: str(tmp_path)}
        log = tmp_path / f"{name}.log"
        return Child(name=name, command=command, environment=environment, log=log, ready=yes, grace=grace)

    return make


def running(directory: Path) -> list[psutil.Process]:
    """Every living process that a supervisor started for this directory, and what those started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(directory) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


async def test_a_crashed_child_is_started_again_and_said(
    supervisor: Supervisor, child: Callable[..., Child], said: list[str], tmp_path: Path
) -> None:
    await supervisor.start(child(), within=5)
    [first] = running(tmp_path)
    first.kill()

    await eventually(lambda: [process for process in running(tmp_path) if process.pid != first.pid])
    assert said[0].startswith("child was ended by SIGKILL; restarting in 0.5 s")


async def test_the_pause_grows_while_a_child_keeps_crashing(
    supervisor: Supervisor, child: Callable[..., Child], said: list[str]
) -> None:
    await supervisor.start(child("print('no luck'); raise SystemExit(3)"), within=5)
    await eventually(lambda: len(said) == 3)
    assert ["0.5 s" in said[0], "1 s" in said[1], "2 s" in said[2]] == [True] * 3
    assert "ended with exit code 3" in said[0]
    assert said[0].endswith("no luck")


async def test_what_a_crashed_child_had_started_is_ended_before_it_starts_again(
    supervisor: Supervisor, child: Callable[..., Child], said: list[str], tmp_path: Path
) -> None:
    await supervisor.start(child(HAS_A_CHILD), within=5)
    await eventually(lambda: len(running(tmp_path)) == 2)
    first = running(tmp_path)
    next(p for p in first if p.ppid() == os.getpid()).kill()

    await eventually(lambda: said)
    assert not [p for p in first if p in running(tmp_path)]


async def test_stopping_ends_the_last_stage_first_and_leaves_nothing(
    supervisor: Supervisor, child: Callable[..., Child], tmp_path: Path
) -> None:
    tells = (
        "import signal, sys, time\n"
        "def end(*_): open(sys.argv[1].split(' of ')[1] + '/order', 'a').write(sys.argv[1][0]); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(600)"
    )
    await supervisor.start(child(tells, "a"), within=5)
    await supervisor.start(child(tells, "b"), child(tells, "c"), within=5)
    await eventually(lambda: all("up" in (tmp_path / f"{name}.log").read_text() for name in "abc"))
    await supervisor.stop()

    order = (tmp_path / "order").read_text()
    assert sorted(order[:2]) == ["b", "c"]
    assert order[2] == "a"
    assert not running(tmp_path)
    assert not (tmp_path / "processes.json").exists()


async def test_a_child_that_does_not_listen_is_killed_after_its_grace(
    supervisor: Supervisor, child: Callable[..., Child], tmp_path: Path
) -> None:
    await supervisor.start(child(IGNORES_SIGTERM, grace=0.2), within=5)
    await eventually(lambda: "deaf" in (tmp_path / "child.log").read_text())
    await asyncio.wait_for(supervisor.stop(), 30)
    assert not running(tmp_path)


async def test_a_second_ctrl_c_waits_for_nobody(
    supervisor: Supervisor, child: Callable[..., Child], tmp_path: Path
) -> None:
    await supervisor.start(child(IGNORES_SIGTERM, grace=600), within=5)
    await eventually(lambda: "deaf" in (tmp_path / "child.log").read_text())
    stopping = asyncio.create_task(supervisor.stop())
    supervisor.kill()
    await asyncio.wait_for(stopping, 30)
    assert not running(tmp_path)


async def test_a_child_that_ends_while_starting_is_told_with_its_last_words(
    supervisor: Supervisor, child: Callable[..., Child]
) -> None:
    async def never() -> bool:
        return False

    broken = child("raise SystemExit('CHATS_AUTH_SECRET is not set')")
    broken = Child(name="api", command=broken.command, log=broken.log, ready=never)
    with pytest.raises(StartError, match=r"api ended with exit code 1 while starting:\n +CHATS_AUTH_SECRET is"):
        await supervisor.start(broken, within=5)


async def test_a_child_that_is_never_ready_is_told(supervisor: Supervisor, child: Callable[..., Child]) -> None:
    async def never() -> bool:
        return False

    slow = child()
    slow = Child(name="slow", command=slow.command, log=slow.log, ready=never)
    with pytest.raises(StartError, match=r"slow is not ready after 0.2 s"):
        await supervisor.start(slow, within=0.2)


async def test_a_one_shot_that_fails_is_told(supervisor: Supervisor, child: Callable[..., Child]) -> None:
    await supervisor.run(child("print('fine')", "demo"))
    with pytest.raises(StartError, match=r"migrate ended with exit code 2:\n +no such database"):
        await supervisor.run(child("print('no such database'); raise SystemExit(2)", "migrate"))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
async def test_a_killed_supervisor_leaves_no_child(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISES, tmp_path, SLEEPS]) as supervisor:  # noqa: ASYNC220, S603 - a process of its own, which is killed
        await eventually(lambda: len(running(tmp_path)) == 1)
        supervisor.send_signal(signal.SIGKILL)
    await eventually(lambda: not running(tmp_path))


async def test_the_next_start_ends_what_a_killed_supervisor_left(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISES, tmp_path, HAS_A_CHILD]) as supervisor:  # noqa: ASYNC220, S603 - a process of its own, which is killed
        await eventually(lambda: len(running(tmp_path)) == 2)
        supervisor.send_signal(signal.SIGKILL)
    assert running(tmp_path)  # its grandchild, at least

    record = Record(tmp_path / "processes.json", str(tmp_path))
    assert await asyncio.to_thread(record.end_survivors)
    assert not running(tmp_path)
    assert not await asyncio.to_thread(record.end_survivors)


async def test_a_pid_that_is_anothers_by_now_is_left_alone(tmp_path: Path) -> None:
    record = tmp_path / "processes.json"
    record.write_text(f'{{"api": [{os.getpid()}, 1.0]}}')
    assert not Record(record, str(tmp_path)).end_survivors()
