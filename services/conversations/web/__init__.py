"""The server-rendered pages, their scripts and styles."""
