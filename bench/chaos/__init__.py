"""Faults at random while people write; then what was acknowledged is compared with what is there."""
