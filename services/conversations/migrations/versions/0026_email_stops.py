"""Why customers get no emails, as the notifications service's log says."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0026"
down_revision: str | None = "0025"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "email_stops",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text()),
        sa.Column("conversation_id", sa.Uuid()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="email_stops_pkey"),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name="email_stops_conversation_id_fkey",
            ondelete="CASCADE",
        ),
    )
    op.create_index("email_stops_user_id_idx", "email_stops", ["user_id"])
    op.create_index("email_stops_conversation_id_idx", "email_stops", ["conversation_id"])


def downgrade() -> None:
    op.drop_table("email_stops")
