"""Identity of callers: browser sessions, users provisioned from tokens, authorization, deletion of users."""
