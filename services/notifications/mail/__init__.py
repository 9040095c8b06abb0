"""Emails as messages, and the SMTP and IMAP clients, without the database."""
