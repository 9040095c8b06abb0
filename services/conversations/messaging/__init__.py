"""Conversations and messages: posting, commands, reads, counts."""
