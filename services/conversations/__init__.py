"""Owns users, orders, conversations, messages and the event log."""
