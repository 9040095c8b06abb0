"""Routes for admins: all conversations and their customers."""

from typing import Annotated, Literal

from fastapi import Query, Request, Response

from services.conversations.api.dependencies import (
    Admin,
    AdminReader,
    AfterNumber,
    ConversationId,
    IdempotencyKeyHeader,
    Order,
    OrderId,
    Peek,
    Prefetch,
    Search,
    Statuses,
    TokenAdmin,
    key_of,
    mark_replay,
    via_of,
    viewer_of,
)
from services.conversations.api.posting import authorize_sender, conversation_with_customer, create, save, save_edit
from services.conversations.api.rate_limiting import CountedEdit, enforce_limits
from services.conversations.api.schemas.desk import LabelName
from services.conversations.api.schemas.requests import AdminCreateConversation, BulkDelete, MarkRead, PostMessage
from services.conversations.api.schemas.responses import (
    AdminConversationOut,
    Counts,
    CustomerOut,
    Deleted,
    MessageOut,
)
from services.conversations.api.state import api_state
from services.conversations.desk.labels import find_label
from services.conversations.errors import (
    ConversationNotClosed,
    IdempotencyKeyReused,
    NewerMessages,
    RateLimited,
    SearchTooSlow,
    StatusChanged,
)
from services.conversations.identity.access import authorize_caller
from services.conversations.messaging import commands, counts, listing, queries
from services.conversations.messaging.listing import Filters
from services.conversations.messaging.posting import Post
from services.conversations.messaging.queries import find_person_id, list_messages, load_conversation
from services.conversations.rules import COUNT_LIMIT, Side
from services.conversations.search.finding import find_conversations
from services.conversations.search.query import parse
from shared.api.dependencies import Cursor, DbSession, Limit
from shared.api.routing import ApiRouter
from shared.auth.principal import Permission
from shared.auth.tokens import check_permission
from shared.database.transactions import driver_connection
from shared.paging import DEFAULT_LIMIT, Page
from shared.people import StoreId
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, problem_responses
from shared.text import Text

router = ApiRouter(
    prefix="/api/v1/admin",
    tags=["Admin conversations"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)

# `uuid` keeps this path from matching `counts` and `bulk-delete`, which have methods of their own.
_CONVERSATION = "/conversations/{conversation_id:uuid}"


@router.read(
    "/conversations", summary="List all conversations", responses=problem_responses(Unavailable, SearchTooSlow)
)
async def admin_list_conversations(
    reading: AdminReader,
    q: Search = None,
    status: Statuses = None,
    unread: Annotated[
        bool | None, Query(description="`true` for conversations that no admin has read, `false` for the others.")
    ] = None,
    user_id: Annotated[StoreId | None, Query(description="Only conversations of this customer.")] = None,
    order_id: OrderId = None,
    order_number: Annotated[
        Text | None, Query(min_length=1, description="Only conversations about orders with this number.")
    ] = None,
    assigned: Annotated[
        Literal["me", "none"] | None,
        Query(description="`me` for conversations assigned to the caller, `none` for those assigned to nobody."),
    ] = None,
    assignee_id: Annotated[StoreId | None, Query(description="Only conversations assigned to this admin.")] = None,
    label: Annotated[LabelName | None, Query(description="Only conversations with this label.")] = None,
    held: Annotated[
        bool | None, Query(description="`true` for conversations with emails that are held, `false` for the others.")
    ] = None,
    sort: Annotated[
        Literal["activity", "waiting"],
        Query(
            description="`activity`: last activity first; `waiting`: longest waiting for a reply first (not with `q`)."
        ),
    ] = "activity",
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[AdminConversationOut]:
    """List all conversations, last activity or longest waiting first. Filters combine; `status` can be repeated.

    `q` finds words in messages, notes, subjects, order numbers, and customers' names, addresses and ids.
    """
    if assigned is not None and assignee_id is not None:
        raise Invalid("Send assigned or assignee_id, not both.", ("query", "assignee_id"))
    if user_id is not None:
        user_id = await find_person_id(reading, user_id)
    label_id = None
    if label is not None and (label_id := await find_label(reading, label)) is None:
        return Page(items=[], next_cursor=None)
    filters = Filters(
        tuple(sorted(set(status or ()))),
        unread,
        user_id,
        order_id,
        order_number,
        assignee_id=reading.principal.id if assigned == "me" else assignee_id,
        unassigned=assigned == "none",
        label_id=label_id,
        held=held,
    )
    if q and q.strip():
        if sort == "waiting":
            raise Invalid("A search has the order of activity: leave out sort, or q.", ("query", "sort"))
        page = await find_conversations(reading, parse(q), filters, Side.ADMIN, cursor, limit)
        return Page(items=[AdminConversationOut.of(*each) for each in page.found], next_cursor=page.next_cursor)
    if sort == "waiting":
        conversations, next_cursor = await listing.list_by_waiting(reading, filters, cursor, limit)
    else:
        conversations, next_cursor = await listing.list_by_activity(reading, filters, Side.ADMIN, cursor, limit)
    return Page(
        items=[AdminConversationOut.of(conversation) for conversation in conversations], next_cursor=next_cursor
    )


@router.read("/conversations/counts", summary="Count conversations", response_model_exclude_none=True)
async def count_conversations(reading: AdminReader) -> Counts:
    """Count conversations by status, and the unread, the caller's, unassigned and held ones. Each stops at 1,000."""
    tally = await counts.tally(reading, reading.principal.id)
    totals = (tally.unread, tally.mine, tally.unassigned, tally.held, *tally.by_status.values())
    return Counts(
        by_status=tally.by_status,
        unread=tally.unread,
        mine=tally.mine,
        unassigned=tally.unassigned,
        held=tally.held,
        more=True if any(count >= COUNT_LIMIT for count in totals) else None,
    )


@router.write(
    "/conversations",
    summary="Create a conversation with a customer",
    status_code=201,
    responses=problem_responses(Invalid, IdempotencyKeyReused, RateLimited),
)
async def admin_create_conversation(
    request: Request,
    body: AdminCreateConversation,
    caller: TokenAdmin,
    response: Response,
    key: IdempotencyKeyHeader = None,
) -> AdminConversationOut:
    """Start a conversation with any known customer."""
    await enforce_limits(request, caller, body, key)
    detail, replayed = await create(request, caller, *conversation_with_customer(caller, body, key))
    response.headers["Location"] = f"/api/v1/admin/conversations/{detail.conversation.id}"
    mark_replay(response, replayed=replayed)
    return AdminConversationOut.of(detail)


@router.get(_CONVERSATION, summary="Get any conversation", responses=problem_responses(NotFound))
async def admin_get_conversation(
    request: Request,
    conversation_id: ConversationId,
    caller: Admin,
    session: DbSession,
    prefetch: Prefetch,
    *,
    peek: Peek = False,
) -> AdminConversationOut:
    """Return a conversation, and mark it as read by the admins up to the returned `message_count`."""
    conversation = await load_conversation(await driver_connection(session), conversation_id)
    api_state(request).reads.note(caller.id, conversation_id)
    if not (peek or prefetch):
        conversation = await commands.read_conversation(session, conversation, Side.ADMIN, caller.id)
    return AdminConversationOut.of(conversation)


@router.read(
    "/conversations/{conversation_id}/messages",
    summary="List messages of any conversation",
    responses=problem_responses(NotFound),
)
async def admin_list_messages(
    request: Request,
    conversation_id: ConversationId,
    reading: AdminReader,
    order: Order = "asc",
    after: AfterNumber = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[MessageOut]:
    """List a conversation's messages, oldest first. Marks nothing as read."""
    viewer = viewer_of(request, Side.ADMIN)
    rows, next_cursor = await list_messages(
        reading,
        conversation_id,
        scope=None,
        newest_first=order == "desc",
        after=after,
        cursor=cursor,
        limit=limit,
    )
    api_state(request).reads.note(reading.principal.id, conversation_id)
    return Page(items=[MessageOut.of(row, viewer) for row in rows], next_cursor=next_cursor)


@router.write(
    "/conversations/{conversation_id}/messages",
    summary="Reply to a customer",
    status_code=201,
    responses=problem_responses(NotFound, NewerMessages, Invalid, IdempotencyKeyReused, RateLimited),
)
async def admin_post_message(
    request: Request,
    conversation_id: ConversationId,
    body: PostMessage,
    caller: TokenAdmin,
    response: Response,
    key: IdempotencyKeyHeader = None,
) -> MessageOut:
    """Reply to a customer, who gets a `NEW_MESSAGE` notification and an email."""
    await enforce_limits(request, caller, body, key)
    post = Post(
        conversation_id,
        caller.id,
        Side.ADMIN,
        body.body,
        seen_number=body.seen_number,
        idempotency_key=key_of(key, "admin-post", body),
        assigns=api_state(request).settings.assign_on_reply,
        attachments=tuple(body.attachments),
        via=via_of(caller),
    )
    await authorize_sender(request, caller)
    posted = await save(request, post)
    mark_replay(response, replayed=posted.replayed)
    return MessageOut.of(posted, viewer_of(request, Side.ADMIN))


@router.patch(
    _CONVERSATION,
    summary="Set the status, or reply",
    responses=problem_responses(NotFound, NewerMessages, StatusChanged, Invalid, IdempotencyKeyReused, RateLimited),
)
async def edit_conversation(
    request: Request,
    conversation_id: ConversationId,
    body: CountedEdit,
    caller: TokenAdmin,
    session: DbSession,
    response: Response,
    key: IdempotencyKeyHeader = None,
) -> AdminConversationOut:
    """Set the status, reply, or both at once. Only the status of a conversation can be edited."""
    if body.is_reply:
        await authorize_sender(request, caller)
    else:
        await authorize_caller(session, caller, used=True)
    if posted := await save_edit(request, session, conversation_id, caller, body, key):
        mark_replay(response, replayed=posted.replayed)
    return AdminConversationOut.of(await load_conversation(await driver_connection(session), conversation_id))


@router.post(
    "/conversations/{conversation_id}/read",
    summary="Mark a conversation as read by admins",
    status_code=204,
    responses=problem_responses(NotFound),
)
async def admin_mark_read(conversation_id: ConversationId, body: MarkRead, caller: Admin, session: DbSession) -> None:
    """Mark a conversation as read by the admins, up to a message number."""
    await commands.mark_read(session, conversation_id, Side.ADMIN, body.up_to, reader_id=caller.id)


@router.post(
    "/conversations/{conversation_id}/unread",
    summary="Mark a conversation as unread",
    status_code=204,
    responses=problem_responses(NotFound),
)
async def mark_unread(conversation_id: ConversationId, _: Admin, session: DbSession) -> None:
    """Mark a conversation as unread, as a reminder to reply."""
    await commands.mark_unread(session, conversation_id)


@router.delete(
    _CONVERSATION,
    summary="Delete a conversation",
    status_code=204,
    responses=problem_responses(NotFound, ConversationNotClosed),
)
async def delete_conversation(conversation_id: ConversationId, caller: Admin, session: DbSession) -> None:
    """Delete a closed conversation with its messages, including their text in notifications and unsent emails.

    Needs the permission `delete`.
    """
    check_permission(caller, Permission.DELETE)
    if not await commands.delete_conversations(session, [conversation_id], actor_id=caller.id):
        raise NotFound("There is no such conversation.")


@router.post(
    "/conversations/bulk-delete",
    summary="Delete conversations in bulk",
    responses=problem_responses(ConversationNotClosed),
)
async def bulk_delete(body: BulkDelete, caller: Admin, session: DbSession) -> Deleted:
    """Delete closed conversations, all or none. Ids that no longer exist are skipped and not counted.

    Needs the permission `delete`.
    """
    check_permission(caller, Permission.DELETE)
    return Deleted(deleted=await commands.delete_conversations(session, body.ids, actor_id=caller.id))


@router.read("/users", summary="Find customers")
async def list_customers(
    reading: AdminReader,
    q: Annotated[Text | None, Query(description="Part of the name, email address or id.")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[CustomerOut]:
    """Find customers by part of their name, email address or id, or by a whole id that was merged into theirs.

    `custom` has the store's own fields of each.
    """
    users, next_cursor = await queries.list_customers(reading, q, cursor, limit)
    return Page(items=[CustomerOut.of(user) for user in users], next_cursor=next_cursor)
