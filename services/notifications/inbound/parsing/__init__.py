"""Take an email apart, without the database: its texts as lines, and its files. Nothing here fails on any input."""
