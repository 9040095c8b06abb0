"""Users, their browser sessions, and their orders."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, func, literal_column, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from services.conversations.models.base import Base, quoted
from services.conversations.rules import Side

# What a search compares, spelled as in the indexes. `search_form`, a function in the migrations, folds case, accents
# and the shape of quotes.
USER_SEARCH_FORM = "search_form(name, email, id)"
CUSTOM_SEARCH_FORM = "custom_search_form(custom)"  # of the values of the store's own fields, without true and false
ORDER_SEARCH_FORM = "left(ltrim(search_form(number), '# '), 255)"
# The rows of orders that keep a former state, and the id of the order that each was: see `rules.py:former_order_id`.
FORMER_ORDERS = "strpos(id, ' ') > 0"
FORMER_ORDER_OF = "split_part(id, ' ', 1)"


class User(Base):
    """A customer or an admin. `version` grows with every change; `synced_at` is null until the store syncs the user.

    `claims_issued_at` is the `iat`, in seconds, of the last token whose claims changed the user. `synced_role` is the
    role that the store sent, null if none; it limits the role of the user's tokens.

    `merged_into` is the person to whom this id belongs since the store has merged it, who is never merged themselves.
    The row then counts as deleted, and is without a profile; `merged_at` is null until everything of it has moved.
    """

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    email: Mapped[str | None]
    name: Mapped[str | None]
    locale: Mapped[str | None]
    zoneinfo: Mapped[str | None]
    updated_at: Mapped[datetime | None]  # by the store's clock
    synced_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    claims_issued_at: Mapped[int | None] = mapped_column(BigInteger)
    synced_role: Mapped[str | None]
    # The store's own fields, for admins only. The type `json` keeps them in the store's order.
    custom: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    merged_into: Mapped[str | None]
    merged_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(f"role in ({quoted(list(Side))})", name="role"),
        CheckConstraint("merged_into is null or deleted_at is not null", name="merged"),
        Index("users_merging_idx", "id", postgresql_where=text("merged_into is not null and merged_at is null")),
        Index("users_merged_idx", "merged_into", postgresql_where=text("merged_into is not null")),
        Index(
            "users_search_form_idx",
            literal_column(USER_SEARCH_FORM).label("form"),
            postgresql_using="gin",
            postgresql_ops={"form": "gin_trgm_ops"},
        ),
        Index(
            "users_custom_search_form_idx",
            literal_column(CUSTOM_SEARCH_FORM).label("custom_form"),
            postgresql_using="gin",
            postgresql_ops={"custom_form": "gin_trgm_ops"},
            postgresql_where=text("custom is not null"),
        ),
        Index("users_admins_idx", "id", postgresql_where=text("role = 'admin'")),
    )


class BrowserSession(Base):
    """A browser session. It ends when its row is deleted or expires: see `identity/sessions.py`. Holds no token."""

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    role: Mapped[str]  # the user's side when it started; later changes of the user's role do not change it
    csrf: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)

    __table_args__ = (CheckConstraint(f"role in ({quoted(list(Side))})", name="role"),)


class Order(Base):
    """An order as the store last sent it. A deleted order keeps its last state."""

    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    number: Mapped[str]
    status: Mapped[str]
    total: Mapped[str]  # text, to show amounts exactly as the store wrote them
    currency: Mapped[str]
    placed_at: Mapped[datetime]
    url: Mapped[str | None]
    items: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    items_omitted: Mapped[int] = mapped_column(server_default="0")  # items over the limit, counted but not kept
    updated_at: Mapped[datetime | None]  # by the store's clock
    synced_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "user_id", text("placed_at desc"), text("id desc")),
        Index("orders_search_form_idx", text(ORDER_SEARCH_FORM)),
        Index("orders_former_idx", text(FORMER_ORDER_OF), postgresql_where=text(FORMER_ORDERS)),
    )
