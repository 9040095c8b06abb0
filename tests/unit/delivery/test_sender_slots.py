"""The children of a worker take turns at sending."""

import multiprocessing
from multiprocessing.connection import Connection
from tempfile import TemporaryFile

from services.notifications.tasks import MAX_SENDERS, sender_slot

FORK = multiprocessing.get_context("fork")


def child(file: int, end: Connection) -> None:
    with sender_slot(file) as place:
        end.send(place)
        end.recv()


def test_each_that_drains_has_a_place_of_its_own_the_others_go_and_who_dies_makes_room() -> None:
    with TemporaryFile() as file:
        pipes = [FORK.Pipe() for _ in range(MAX_SENDERS + 2)]
        children = [FORK.Process(target=child, args=(file.fileno(), theirs), daemon=True) for _, theirs in pipes]
        *ours, late = [one for one, _ in pipes]
        for process, end, place in zip(children, ours, [*range(MAX_SENDERS), None], strict=False):
            process.start()
            assert end.recv() == place
        children[0].kill()
        children[0].join()
        children[-1].start()
        assert late.recv() == 0
        for process in children:
            process.kill()
            process.join()
