"""What both services agree on: events, broker, database, tokens, errors, paging, observability, settings."""
