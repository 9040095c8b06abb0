"""Email that comes in, from a mail server, a mailbox or a provider, until it is a message of its conversation.

In order: `server`, `imap_mailbox` and `api/inbound_mime` take emails in. All use `reception`, which finds out what the
address stands for (`recipients`, `binding`, `unsubscribing`, `reports`). `intake` finds the author (`authentication`,
`senders`), and keeps the email as a row, or says why not (`loops`). `posting` claims rows, `reply_content` reads each
with `parsing` and `quotes`, and `calls` posts them to the conversations service.
"""
