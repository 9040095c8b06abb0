"""This service's own log, which the conversations service reads: append, number, read, purge."""
