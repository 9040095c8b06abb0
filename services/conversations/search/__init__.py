"""Search: words of conversations, indexed from the event log, and found with an excerpt."""
