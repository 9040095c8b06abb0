"""Webhooks: endpoints of the store, rows for what happens, and the sender."""
