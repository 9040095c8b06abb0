"""What was acknowledged, and when. The verdict compares the system with it."""

import time
from array import array
from collections import Counter
from dataclasses import dataclass, field


@dataclass(eq=False)
class Conversation:
    """A conversation that writers post to. `writing` counts the requests in progress."""

    id: str
    customer: str
    writing: int = 0


@dataclass(frozen=True, slots=True)
class Posted:
    """An acknowledged message. Its text contains `token`, which is unique."""

    id: str
    conversation: Conversation
    by_admin: bool
    token: str


@dataclass
class History:
    """Everything that was acknowledged. `calm` until the first fault."""

    posted: list[Posted] = field(default_factory=list)
    deleted: set[Conversation] = field(default_factory=set)
    replied: dict[str, str] = field(default_factory=dict)
    """Conversations of the replies by email that were answered with 250, by their tokens."""
    refused_replies: int = 0
    reads: int = 0
    retries: int = 0
    odd: Counter[str] = field(default_factory=Counter)
    """Responses that are neither the expected ones nor "try again"."""
    calm: bool = True
    post_seconds: dict[bool, "array[float]"] = field(default_factory=lambda: {True: array("d"), False: array("d")})
    """From the first attempt of a post to its 201, by whether it was calm."""
    pending: dict[str, tuple[float, Posted]] = field(default_factory=dict)
    """Admins' messages whose notification has not been seen yet, oldest first, with the time of their 201."""

    def acknowledge(self, posted: Posted, seconds: float) -> None:
        """Record a message that was answered with 201."""
        self.posted.append(posted)
        self.post_seconds[self.calm].append(seconds)
        if posted.by_admin:
            self.pending[posted.id] = (time.monotonic(), posted)

    def delete(self, conversation: Conversation) -> None:
        """Record that a conversation is about to be deleted: its messages leave the comparison."""
        self.deleted.add(conversation)
        for message_id, (_, posted) in list(self.pending.items()):
            if posted.conversation is conversation:
                del self.pending[message_id]

    @property
    def kept(self) -> list[Posted]:
        """The acknowledged messages whose conversation was not deleted."""
        return [posted for posted in self.posted if posted.conversation not in self.deleted]
