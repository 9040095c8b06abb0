"""SQL that builds event payloads from rows."""

from services.conversations.records import attachments_sql
from shared.events import EventType


def person_payload(alias: str) -> str:
    """Return the SQL of a user's object in event payloads, without the fields that have their default (`Person`)."""
    return (
        f"jsonb_strip_nulls(jsonb_build_object('id', {alias}.id, 'version', {alias}.version, 'name', {alias}.name,"
        f" 'email', {alias}.email, 'locale', {alias}.locale, 'zoneinfo', {alias}.zoneinfo,"
        f" 'deleted', nullif({alias}.deleted_at is not null, false), 'role', {alias}.synced_role,"
        f" 'merged_into', {alias}.merged_into))"
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


def logged_message_payload(attachments: str | None = None) -> str:
    """Return the SQL of what the event of a posted message holds: what `READ_PAYLOAD` needs, or else a whole payload.

    The assignee is that of the moment, which the conversation does not keep.
    """
    return f"""case
        when (select by_reference from feed) then jsonb_build_object('number', message.number) || case
            when message.sender_role = 'customer' and conversation.assignee_id is not null
                then jsonb_build_object('assignee_id', conversation.assignee_id)
            else '{{}}'
        end
        else {message_payload(attachments)}
    end"""  # noqa: S608 - built from constants


_IS_REFERENCE = f"events.type = '{EventType.MESSAGE_POSTED}' and events.payload ? 'number'"
_IS_MEANT = """
    message.conversation_id = events.conversation_id and message.number = (events.payload ->> 'number')::int
        and message.removed_at is null
"""

READ_PAYLOAD = f"""case
    when {_IS_REFERENCE} then (
        select {STORED_MESSAGE_PAYLOAD} - 'assignee_id' || (events.payload - 'number')
        from messages as message
            join conversations as conversation on conversation.id = message.conversation_id
            join users as sender on sender.id = message.sender_id
            join users as customer on customer.id = conversation.user_id
        where {_IS_MEANT}
    )
    else events.payload
end"""  # noqa: S608 - built from constants
"""The SQL of the payload of a row of `events`. It is null if the message was removed, or its conversation deleted."""

READ_MESSAGE_ID = f"""case
    when {_IS_REFERENCE} then (select id from messages as message where {_IS_MEANT})
    else (events.payload #>> '{{message,id}}')::uuid
end"""  # noqa: S608 - built from constants
"""The SQL of the id of the posted message, of a row of `events`; null as above, and for other events."""
