"""The parts of the API, in the order of the reference, whose pages begin with these texts."""

from typing import Final

_PARTS: Final = {
    "Conversations": "What a customer does: open a conversation, write, read the replies. A customer reaches only their"
    " own conversations and orders; all others are a 404.",
    "Admin conversations": "What an admin does with the conversations of all customers: find, read, reply, set the"
    " status, delete. The status is the only field of a conversation that can be edited.",
    "Desk": "What a support team does beside messages: assignment, labels, notes, canned replies, changes in bulk. None"
    " of it reaches the customer, or moves the status, the read flags or `last_activity_at`.",
    "Files": "Upload a file, then send its id in `attachments` with a message. A file has up to 20 MiB"
    " (`CHATS_ATTACHMENT_MAX_BYTES`). The two sides of its conversation can download it.",
    "Live events": "One stream of server-sent events replaces polling. A browser's `EventSource` sends no token: use"
    " `fetch`, or a library for server-sent events that can send headers.",
    "Reports and audit": "How much was asked and how fast it was answered; and who did what.",
    "Users and orders": "What the store's backend does with its users and orders: send, merge, export and erase them."
    " Every call is safe to repeat. With `updated_at`, an older state never overwrites a newer one. An unknown field is"
    " ignored with a warning.",
    "Sign-in": "How a browser gets a session for the pages, from a token of the store.",
    "Webhooks": "Requests to the store's backend when something happens, signed by the"
    " [Standard Webhooks](https://www.standardwebhooks.com) specification. `docs/webhooks.md` says how to verify them,"
    " and what you can rely on.",
}
TAGS: Final = [{"name": name, "description": text} for name, text in _PARTS.items()]
