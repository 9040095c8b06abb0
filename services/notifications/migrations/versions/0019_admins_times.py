"""When admins want emails: quiet hours, and a daily digest."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    for name in ("quiet_start", "quiet_end", "digest_at"):
        op.add_column("bells", sa.Column(name, sa.Time()))
    op.add_column("email_messages", sa.Column("conversation_id", sa.Uuid()))
    with op.get_context().autocommit_block():
        op.create_index(
            "email_messages_conversation_idx",
            "email_messages",
            ["conversation_id"],
            postgresql_where=sa.text("conversation_id is not null"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    op.drop_column("email_messages", "conversation_id")
    for name in ("digest_at", "quiet_end", "quiet_start"):
        op.drop_column("bells", name)
