"""The HTTP API: a customer's notifications, and for admins what became of each mail."""
