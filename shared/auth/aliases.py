"""Callers under an id that the store has merged into another one: they act as the person whom it belongs to now.

The code that authorizes a caller reads their row, and raises `CallerMerged` for such an id. `repeating` then handles
the request again, as the person. A process remembers the id for a minute, so that further requests cost nothing more.
"""

import time
from collections import OrderedDict
from dataclasses import replace
from typing import Final

from shared.auth.principal import CallerMerged, Principal

REMEMBERED: Final = 60.0  # seconds; a database that was restored may not have the merger


class Aliases:
    """The merged ids that this process has met, and whose they are."""

    def __init__(self, size: int = 10_000) -> None:
        self._entries: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._size = size

    def learn(self, merged: CallerMerged) -> None:
        """Remember whose a merged id is."""
        self._entries.pop(merged.person_id, None)  # so that no circle can form
        self._entries.pop(merged.old_id, None)  # the newest are last
        self._entries[merged.old_id] = (time.monotonic() + REMEMBERED, merged.person_id)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def resolve(self, principal: Principal) -> Principal:
        """Return the caller as the person they are.

        What a token says of an old id's name and address is not the person's.
        """
        person_id, now = principal.id, time.monotonic()
        while (entry := self._entries.get(person_id)) is not None and now < entry[0]:
            person_id = entry[1]
        if person_id == principal.id:
            return principal
        return replace(principal, id=person_id, email=None, name=None, locale=None, zoneinfo=None)
