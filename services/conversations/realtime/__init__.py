"""Live streams (server-sent events) and the presence of viewers."""
