"""Email that comes in: read, cut, kept as a row, and posted."""
