"""The work of the `chats` commands for operators, directly on the services' databases."""
