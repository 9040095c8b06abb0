"""Owns notifications and emails, created from the events of the conversations service."""
