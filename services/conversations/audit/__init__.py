"""The audit: who did what to which conversation, when and from where. Rows are only ever added, and hold ids only."""
