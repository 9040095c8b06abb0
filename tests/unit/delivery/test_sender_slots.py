"""A worker's child processes share a limited number of sender slots."""

import multiprocessing
from multiprocessing.connection import Connection
from tempfile import TemporaryFile

from services.notifications.tasks import has_free_slot, sender_slot

SLOTS = 2
FORK = multiprocessing.get_context("fork")


def child(file: int, end: Connection) -> None:
    with sender_slot(file, SLOTS) as slot:
        end.send(slot)
        end.recv()


def test_each_sender_has_its_own_slot_others_get_none_and_a_killed_one_frees_its_slot() -> None:
    with TemporaryFile() as file:
        pipes = [FORK.Pipe() for _ in range(SLOTS + 2)]
        children = [FORK.Process(target=child, args=(file.fileno(), theirs), daemon=True) for _, theirs in pipes]
        *ours, late = [end for end, _ in pipes]
        for process, end, slot in zip(children, ours, [*range(SLOTS), None], strict=False):
            process.start()
            assert end.recv() == slot
        assert not has_free_slot(file.fileno(), SLOTS)
        children[0].kill()
        children[0].join()
        assert has_free_slot(file.fileno(), SLOTS)
        children[-1].start()
        assert late.recv() == 0
        for process in children:
            process.kill()
            process.join()
