"""What the event logs of both services have in common: positions, reading, retention.

Each service has tables of its own, with these names: `events`, `feed` and `feed_readers`.
"""
