"""The parts of the API, in the order of the reference, whose pages begin with these texts."""

from typing import Final

_PARTS: Final = {
    "Notifications": "A customer gets a `NEW_MESSAGE` for each message of an admin. An admin gets those of the bell."
    " They come a second or two later, because another service makes them.",
    "Emails": "What became of the emails that were sent, the addresses that get none any more, and the emails that came"
    " in.",
    "Operations": "What an operator needs. All calls need the permission `operations`.",
}
TAGS: Final = [{"name": name, "description": text} for name, text in _PARTS.items()]
