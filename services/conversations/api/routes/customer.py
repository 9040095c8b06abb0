"""Routes for customers: their own conversations and orders."""

from typing import Annotated

from fastapi import Query, Request, Response

from services.conversations.api.dependencies import (
    AfterNumber,
    AnyReader,
    ConversationId,
    Customer,
    CustomerReader,
    IdempotencyKeyHeader,
    Order,
    OrderId,
    Peek,
    Prefetch,
    Search,
    Statuses,
    TokenCustomer,
    key_of,
    mark_replay,
    via_of,
    viewer_of,
)
from services.conversations.api.posting import authorize_sender, create, own_conversation, save
from services.conversations.api.rate_limiting import enforce_limits
from services.conversations.api.schemas.requests import CreateConversation, MarkRead, PostMessage
from services.conversations.api.schemas.responses import ConversationOut, MessageOut, OrderOut, Unread
from services.conversations.api.state import api_state
from services.conversations.errors import IdempotencyKeyReused, NewerMessages, RateLimited, SearchTooSlow
from services.conversations.messaging import commands, listing, queries
from services.conversations.messaging.listing import Filters
from services.conversations.messaging.posting import Post
from services.conversations.messaging.queries import load_conversation
from services.conversations.rules import Side
from services.conversations.search.finding import find_conversations
from services.conversations.search.query import parse
from shared.api.dependencies import Cursor, DbSession, Limit
from shared.api.routing import ApiRouter
from shared.database.transactions import driver_connection
from shared.paging import DEFAULT_LIMIT, Page
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, problem_responses

router = ApiRouter(
    prefix="/api/v1",
    tags=["Conversations"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)


@router.write(
    "/conversations",
    summary="Create a conversation",
    status_code=201,
    responses=problem_responses(Invalid, IdempotencyKeyReused, RateLimited),
)
async def create_conversation(
    request: Request,
    body: CreateConversation,
    caller: TokenCustomer,
    response: Response,
    key: IdempotencyKeyHeader = None,
) -> ConversationOut:
    """Start a conversation, optionally about one of the caller's orders and with a first message."""
    await enforce_limits(request, caller, body, key)
    detail, replayed = await create(request, caller, *own_conversation(caller, body, key))
    response.headers["Location"] = f"/api/v1/conversations/{detail.conversation.id}"
    mark_replay(response, replayed=replayed)
    return ConversationOut.of(detail)


@router.read("/conversations", summary="List conversations", responses=problem_responses(Unavailable, SearchTooSlow))
async def list_conversations(
    reading: CustomerReader,
    q: Search = None,
    status: Statuses = None,
    unread: Annotated[
        bool | None, Query(description="`true` for conversations that the caller has not read, `false` for the others.")
    ] = None,
    order_id: OrderId = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[ConversationOut]:
    """List the caller's conversations, last activity first. `q` finds words in messages, subjects and order numbers."""
    filters = Filters(tuple(sorted(set(status or ()))), unread, reading.principal.id, order_id)
    if q and q.strip():
        page = await find_conversations(reading, parse(q), filters, Side.CUSTOMER, cursor, limit)
        return Page(items=[ConversationOut.of(*each) for each in page.found], next_cursor=page.next_cursor)
    conversations, next_cursor = await listing.list_by_activity(reading, filters, Side.CUSTOMER, cursor, limit)
    return Page(items=[ConversationOut.of(conversation) for conversation in conversations], next_cursor=next_cursor)


@router.get("/conversations/{conversation_id}", summary="Get a conversation", responses=problem_responses(NotFound))
async def get_conversation(
    conversation_id: ConversationId, caller: Customer, session: DbSession, prefetch: Prefetch, *, peek: Peek = False
) -> ConversationOut:
    """Return one of the caller's conversations, and mark it as read up to the returned `message_count`."""
    conversation = await load_conversation(await driver_connection(session), conversation_id, scope=caller.id)
    if not (peek or prefetch):
        conversation = await commands.read_conversation(session, conversation, Side.CUSTOMER, caller.id)
    return ConversationOut.of(conversation)


@router.read(
    "/conversations/{conversation_id}/messages", summary="List messages", responses=problem_responses(NotFound)
)
async def list_messages(
    request: Request,
    conversation_id: ConversationId,
    reading: CustomerReader,
    order: Order = "asc",
    after: AfterNumber = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[MessageOut]:
    """List a conversation's messages, oldest first. Marks nothing as read."""
    viewer = viewer_of(request, Side.CUSTOMER)
    rows, next_cursor = await queries.list_messages(
        reading,
        conversation_id,
        scope=reading.principal.id,
        newest_first=order == "desc",
        after=after,
        cursor=cursor,
        limit=limit,
    )
    return Page(items=[MessageOut.of(row, viewer) for row in rows], next_cursor=next_cursor)


@router.write(
    "/conversations/{conversation_id}/messages",
    summary="Post a message",
    status_code=201,
    responses=problem_responses(NotFound, NewerMessages, Invalid, IdempotencyKeyReused, RateLimited),
)
async def post_message(
    request: Request,
    conversation_id: ConversationId,
    body: PostMessage,
    caller: TokenCustomer,
    response: Response,
    key: IdempotencyKeyHeader = None,
) -> MessageOut:
    """Send a message to the store. This reopens a resolved or closed conversation."""
    await enforce_limits(request, caller, body, key)
    post = Post(
        conversation_id,
        caller.id,
        Side.CUSTOMER,
        body.body,
        scope=caller.id,
        seen_number=body.seen_number,
        idempotency_key=key_of(key, "post", body),
        attachments=tuple(body.attachments),
        via=via_of(caller),
    )
    await authorize_sender(request, caller)
    posted = await save(request, post)
    mark_replay(response, replayed=posted.replayed)
    return MessageOut.of(posted, viewer_of(request, Side.CUSTOMER))


@router.post(
    "/conversations/{conversation_id}/read",
    summary="Mark a conversation as read",
    status_code=204,
    responses=problem_responses(NotFound),
)
async def mark_read(conversation_id: ConversationId, body: MarkRead, caller: Customer, session: DbSession) -> None:
    """Mark a conversation as read by the caller, up to a message number."""
    await commands.mark_read(session, conversation_id, Side.CUSTOMER, body.up_to, scope=caller.id)


@router.read("/unread", summary="Count unread conversations", response_model_exclude_none=True)
async def count_unread(request: Request, reading: AnyReader) -> Unread:
    """Count the unread conversations of the caller's side, for a badge."""
    return Unread.of(await api_state(request).unread_counts.of(reading))


@router.read("/orders", summary="List orders")
async def list_orders(reading: CustomerReader, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[OrderOut]:
    """List the caller's orders, newest first, to start a conversation about one."""
    orders, next_cursor = await queries.list_orders(reading, reading.principal.id, cursor, limit)
    return Page(items=[OrderOut.of(order) for order in orders], next_cursor=next_cursor)
