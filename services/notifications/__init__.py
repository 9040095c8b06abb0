"""Owns notifications and email, made from the events of the conversations service."""
