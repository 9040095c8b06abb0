"""The children of a worker take turns at sending."""

import multiprocessing
from multiprocessing.connection import Connection
from tempfile import TemporaryFile

from services.notifications.tasks import DRAINS, take_turn

FORK = multiprocessing.get_context("fork")


def child(file: int, end: Connection) -> None:
    with take_turn(file) as ours:
        end.send(ours)
        end.recv()


def test_some_drain_one_waits_for_a_place_and_the_others_go_until_one_dies() -> None:
    with TemporaryFile() as file:
        pipes = [FORK.Pipe() for _ in range(DRAINS + 2)]
        children = [FORK.Process(target=child, args=(file.fileno(), theirs), daemon=True) for _, theirs in pipes]
        ours = [one for one, _ in pipes]
        for process, end in zip(children[:DRAINS], ours, strict=False):
            process.start()
            assert end.recv() is True
        for process in children[DRAINS:]:
            process.start()
        # One of both waits for those, the other is told at once.
        [told] = multiprocessing.connection.wait(ours[DRAINS:], timeout=20)
        assert isinstance(told, Connection)
        assert told.recv() is False
        [waiting] = [end for end in ours[DRAINS:] if end is not told]
        assert not waiting.poll(0.05)
        children[0].kill()
        assert waiting.poll(20)
        assert waiting.recv() is True
        for process in children:
            process.kill()
            process.join()
