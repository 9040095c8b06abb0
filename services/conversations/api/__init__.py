"""The HTTP API, by audience: customers, admins, the store's backend, the other service."""
