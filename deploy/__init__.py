"""How the services are run: the `chats` command, the embedded local stack, containers."""
