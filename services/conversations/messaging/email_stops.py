"""Why a customer gets no emails, as SQL for the statements of pages. `emails/stops.py` writes it."""

from typing import Final


def stop_of_all_sql(user: str) -> str:
    """Return the SQL of the reason why a customer gets no emails at all, null if there is none.

    That there is no mail server concerns all of them, and no customer is told.
    """
    return f"(select min(reason) from email_stops where user_id = {user} and conversation_id is null)"  # noqa: S608 - a column


def is_stopped_sql(conversation: str) -> str:
    """Return the SQL condition that there are no emails about a conversation."""
    return f"exists (select from email_stops where conversation_id = {conversation})"


STOPS_SQL: Final = """
    array(
        select reason from email_stops where conversation_id = $1 or user_id is null
            or (conversation_id is null and user_id = (select user_id from conversations where id = $1))
        order by user_id is not null, reason
    )
"""
"""The SQL of all reasons why the customer of a conversation `$1` gets no emails about it."""
