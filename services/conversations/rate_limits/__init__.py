"""Rate limits, counted in Redis."""
