"""Who may call: browser sessions, users provisioned from tokens, access checks, erasure of users."""
