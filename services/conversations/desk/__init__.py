"""What admins do beside messages: notes, assignment, labels, canned replies, changes in bulk, the timeline."""
