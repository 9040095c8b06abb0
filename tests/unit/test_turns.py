"""The children of a worker take turns at sending."""

import multiprocessing
from multiprocessing.connection import Connection
from tempfile import TemporaryFile

from services.notifications.tasks import take_turn

FORK = multiprocessing.get_context("fork")


def child(file: int, end: Connection) -> None:
    with take_turn(file) as ours:
        end.send(ours)
        end.recv()


def test_one_drains_one_waits_for_it_and_the_others_go_until_one_dies() -> None:
    with TemporaryFile() as file:
        pipes = [FORK.Pipe() for _ in range(3)]
        children = [FORK.Process(target=child, args=(file.fileno(), theirs), daemon=True) for _, theirs in pipes]
        (first, _), (second, _), (third, _) = pipes
        children[0].start()
        assert first.recv() is True
        children[1].start()
        children[2].start()
        # One of both waits for the first, the other is told at once.
        [told] = multiprocessing.connection.wait([second, third], timeout=20)
        assert isinstance(told, Connection)
        assert told.recv() is False
        waiting = third if told is second else second
        assert not waiting.poll(0.05)
        children[0].kill()
        assert waiting.poll(20)
        assert waiting.recv() is True
        for process in children:
            process.kill()
            process.join()
