"""The JSON API of notifications and emails."""
