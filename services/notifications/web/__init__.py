"""The pages of this service: emails turned off and on, by link or signed in, and an admin's preferences."""
