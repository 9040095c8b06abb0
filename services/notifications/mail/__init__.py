"""Emails as messages and the SMTP client, without the database."""
