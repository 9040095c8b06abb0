"""Rate limits and the Redis client that fails open."""
