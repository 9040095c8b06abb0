"""Inject random faults while simulated users write, then compare the acknowledged messages with the stored ones."""
