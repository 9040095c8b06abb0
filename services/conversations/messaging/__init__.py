"""Conversations and messages: posting, commands, queries, counts, erasure."""
