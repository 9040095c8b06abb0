"""Attachments: files in messages, and the deletion of their objects."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    # Constants as defaults, so that no row is rewritten, and an API of the previous release can still insert.
    op.add_column("messages", sa.Column("via", sa.Text(), server_default="web", nullable=False))
    op.add_column("messages", sa.Column("attachment_count", sa.SmallInteger(), server_default="0", nullable=False))
    # Without looking at the rows, which all have the default.
    op.execute(
        "alter table messages add constraint messages_via_check check (via in ('api', 'email', 'web')) not valid"
    )
    op.create_table(
        "attachments",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("uploader_id", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer()),
        sa.Column("height", sa.Integer()),
        sa.Column("thumbnail", sa.Text(), server_default="none", nullable=False),
        sa.Column("conversation_id", sa.Uuid()),
        sa.Column("message_id", sa.Uuid()),
        sa.Column("position", sa.SmallInteger()),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True)),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("side in ('admin', 'customer')", name="attachments_side_check"),
        sa.CheckConstraint("state in ('blocked', 'ready', 'scanning', 'uploading')", name="attachments_state_check"),
        sa.CheckConstraint("thumbnail in ('none', 'ready', 'waiting')", name="attachments_thumbnail_check"),
        sa.ForeignKeyConstraint(["uploader_id"], ["users.id"], name="attachments_uploader_id_fkey"),
        sa.PrimaryKeyConstraint("id", name="attachments_pkey"),
    )
    sent, unsent = sa.text("conversation_id is not null"), sa.text("message_id is null")
    due, keyed = sa.text("next_attempt_at is not null"), sa.text("idempotency_key is not null")
    for name, columns, where in (
        ("attachments_message_idx", ["conversation_id", "message_id"], sent),
        ("attachments_uploader_idx", ["uploader_id", "created_at"], None),
        ("attachments_unsent_idx", ["created_at"], unsent),
        ("attachments_due_idx", ["next_attempt_at"], due),
    ):
        op.create_index(name, "attachments", columns, postgresql_where=where)
    op.create_index(
        "attachments_idempotency_key",
        "attachments",
        ["uploader_id", "idempotency_key"],
        unique=True,
        postgresql_where=keyed,
    )
    op.create_table(
        "file_deletions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name="file_deletions_pkey"),
    )
    op.create_index("file_deletions_due_at_idx", "file_deletions", ["due_at"])
    # A trigger, so that no statement can delete a row and leave its objects. A process that makes a thumbnail may be
    # writing objects until its claim ends.
    op.execute("""
        create function note_file_deletions() returns trigger language plpgsql as $$
        begin
            insert into file_deletions (id, due_at)
            select id, least(greatest(clock_timestamp(), next_attempt_at), clock_timestamp() + interval '2 minutes')
            from gone
            on conflict do nothing;
            return null;
        end
        $$
    """)
    op.execute("""
        create trigger attachments_files after delete on attachments
        referencing old table as gone for each statement execute function note_file_deletions()
    """)


def downgrade() -> None:
    op.drop_table("attachments")
    op.execute("drop function note_file_deletions()")
    op.drop_table("file_deletions")
    op.drop_column("messages", "attachment_count")
    op.drop_column("messages", "via")
