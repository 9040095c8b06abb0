"""Authentication: tokens, the keys that sign them, cookies, roles and permissions."""
