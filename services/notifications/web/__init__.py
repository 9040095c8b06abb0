"""The one page of this service: an admin's preferences."""
