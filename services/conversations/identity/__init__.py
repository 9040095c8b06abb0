"""Identity of callers: browser sessions, users provisioned from tokens, authorization, merging of users."""
