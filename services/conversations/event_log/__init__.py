"""The event log (a transactional outbox): append, number, read, purge."""
