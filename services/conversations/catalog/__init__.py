"""Sync of the store's users and orders, one by one or by NDJSON import."""
