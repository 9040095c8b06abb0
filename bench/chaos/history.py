"""What was acknowledged to whom, and when: what the verdict measures the system by."""

import time
from array import array
from collections import Counter
from dataclasses import dataclass, field


@dataclass(eq=False)
class Talk:
    """A conversation that people write in. `writing` counts the requests about it that are under way."""

    id: str
    customer: str
    writing: int = 0


@dataclass(frozen=True, slots=True)
class Posted:
    """A message that somebody was told is saved. `token` is in its text, and in no other's."""

    id: str
    talk: Talk
    by_admin: bool
    token: str


@dataclass
class History:
    """Everything that was acknowledged. `calm` until the first fault is struck."""

    posted: list[Posted] = field(default_factory=list)
    deleted: set[Talk] = field(default_factory=set)
    reads: int = 0
    retries: int = 0
    odd: Counter[str] = field(default_factory=Counter)
    """Answers that are neither what was asked for nor "try again"."""
    calm: bool = True
    post_seconds: dict[bool, "array[float]"] = field(default_factory=lambda: {True: array("d"), False: array("d")})
    """From the first try of a post to its 201, by whether it was calm."""
    pending: dict[str, tuple[float, Posted]] = field(default_factory=dict)
    """Messages of admins whose record has not been seen yet, oldest first, with the time of their 201."""

    def acknowledge(self, posted: Posted, seconds: float) -> None:
        """Note a message that was answered with 201."""
        self.posted.append(posted)
        self.post_seconds[self.calm].append(seconds)
        if posted.by_admin:
            self.pending[posted.id] = (time.monotonic(), posted)

    def delete(self, talk: Talk) -> None:
        """Note that a conversation is about to be deleted: its messages leave the comparison."""
        self.deleted.add(talk)
        for identity, (_, posted) in list(self.pending.items()):
            if posted.talk is talk:
                del self.pending[identity]

    @property
    def kept(self) -> list[Posted]:
        """The acknowledged messages whose conversation was not deleted."""
        return [posted for posted in self.posted if posted.talk not in self.deleted]
