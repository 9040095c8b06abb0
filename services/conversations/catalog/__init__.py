"""What the store syncs: users and orders, one by one or as an NDJSON import."""
