"""The consumer of the event log: each event takes effect once, or is parked."""
