"""SQL that builds event payloads from rows."""

from services.conversations.records import attachments_sql


def person_payload(alias: str) -> str:
    """Return the SQL of a user's object in event payloads, without the fields that have their default (`Person`)."""
    return (
        f"jsonb_strip_nulls(jsonb_build_object('id', {alias}.id, 'version', {alias}.version, 'name', {alias}.name,"
        f" 'email', {alias}.email, 'locale', {alias}.locale, 'zoneinfo', {alias}.zoneinfo,"
        f" 'deleted', nullif({alias}.deleted_at is not null, false), 'role', {alias}.synced_role))"
    )


def message_payload(attachments: str | None = None) -> str:
    """Return the SQL of the payload of a posted message; `attachments` is the SQL of its files, if it may have any."""
    files = f", 'attachments', coalesce({attachments}, '[]'::jsonb)" if attachments else ""
    return f"""jsonb_build_object(
        'conversation_id', conversation.id,
        'subject', conversation.subject,
        'message', jsonb_build_object(
            'id', message.id, 'number', message.number, 'sender_role', message.sender_role,
            'body', message.body, 'created_at', message.created_at, 'via', message.via{files}
        ),
        'sender', {person_payload("sender")},
        'customer', {person_payload("customer")}
    ) || case
        when message.sender_role = 'customer' and conversation.assignee_id is not null
            then jsonb_build_object('assignee_id', conversation.assignee_id)
        else '{{}}'
    end"""


STORED_MESSAGE_PAYLOAD = message_payload(attachments_sql("message"))
