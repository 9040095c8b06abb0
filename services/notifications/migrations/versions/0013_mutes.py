"""Record who wants no emails, and the key of the links that say so."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

RANDOM_KEY = "decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')"


def upgrade() -> None:
    op.create_table(
        "mutes",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=True),
        sa.Column("muted_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="mutes_pkey"),
        sa.UniqueConstraint(
            "user_id", "conversation_id", name="mutes_user_id_conversation_id_key", postgresql_nulls_not_distinct=True
        ),
    )
    op.create_index("mutes_conversation_id_idx", "mutes", ["conversation_id"])
    op.add_column("gate", sa.Column("leave_key", sa.LargeBinary(), server_default=sa.text(RANDOM_KEY), nullable=False))


def downgrade() -> None:
    op.drop_column("gate", "leave_key")
    op.drop_table("mutes")
