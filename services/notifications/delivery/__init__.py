"""Email delivery: when an email is due, what it contains, attempts, retries, limits."""
