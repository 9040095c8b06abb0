"""SQL that builds event payloads from rows."""


def person_payload(alias: str) -> str:
    """Return the SQL of a user's object in event payloads, without the fields that have their default (`Person`)."""
    return (
        f"jsonb_strip_nulls(jsonb_build_object('id', {alias}.id, 'version', {alias}.version, 'name', {alias}.name,"
        f" 'email', {alias}.email, 'locale', {alias}.locale, 'zoneinfo', {alias}.zoneinfo,"
        f" 'deleted', nullif({alias}.deleted_at is not null, false), 'role', {alias}.synced_role))"
    )


MESSAGE_PAYLOAD = f"""jsonb_build_object(
        'conversation_id', conversation.id,
        'subject', conversation.subject,
        'message', jsonb_build_object(
            'id', message.id, 'number', message.number, 'sender_role', message.sender_role,
            'body', message.body, 'created_at', message.created_at
        ),
        'sender', {person_payload("sender")},
        'customer', {person_payload("customer")}
    )"""
