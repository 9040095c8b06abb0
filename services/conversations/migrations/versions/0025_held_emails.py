"""Remember the emails to a conversation that are held."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision: str = "0025"
down_revision: str | None = "0024"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("conversations", sa.Column("held_ids", ARRAY(sa.Uuid())))
    with op.get_context().autocommit_block():
        op.create_index(
            "conversations_held_idx",
            "conversations",
            [sa.text("last_activity_at desc"), sa.text("id desc")],
            postgresql_where=sa.text("held_ids is not null"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    op.drop_column("conversations", "held_ids")
