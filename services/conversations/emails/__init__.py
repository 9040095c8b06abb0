"""The status of emails: read from the notifications service's log into entries of the timeline."""
