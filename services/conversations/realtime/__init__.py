"""Live streams (server-sent events) and who is viewing a conversation."""
