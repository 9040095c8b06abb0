"""Entries of the timeline without an actor: what happened by itself."""

from collections.abc import Sequence

from alembic import op

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.alter_column("conversation_entries", "actor_id", nullable=True)


def downgrade() -> None:
    op.execute("delete from conversation_entries where actor_id is null")
    op.alter_column("conversation_entries", "actor_id", nullable=False)
