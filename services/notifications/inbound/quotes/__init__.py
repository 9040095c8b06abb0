"""Remove the quote of our own email from a reply, without the database.

In order: `reply_text` makes lines of a parsed email. `folding` marks the lines that are ours, by the fingerprints of
what we sent (`mail.fingerprints`), and what introduces a quote (`introductions`). A customer's reply is what is left.
An admin's reply must also pass `own_words`: a quote that is left there would show a customer what is for admins.
"""
