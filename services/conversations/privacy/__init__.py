"""A person's data: the export of all of it in one archive, and its erasure on request."""
