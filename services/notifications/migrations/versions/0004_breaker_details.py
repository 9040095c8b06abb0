"""Store the state of the circuit breaker."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

COLUMNS: dict[str, Any] = {
    "breaker_since": sa.DateTime(timezone=True),
    "breaker_phase": sa.Text(),
    "breaker_host": sa.Text(),
    "breaker_code": sa.Integer(),
    "breaker_probe": sa.Uuid(),
    "proven_at": sa.DateTime(timezone=True),
}


def upgrade() -> None:
    op.add_column("emails", sa.Column("refused_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "emails_deferred_idx",
        "emails",
        ["id"],
        postgresql_where=sa.text("state = 'scheduled' and (counted_tries > 0 or refused_at is not null)"),
    )
    for name, kind in COLUMNS.items():
        op.add_column("gate", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    for name in COLUMNS:
        op.drop_column("gate", name)
    op.drop_index("emails_deferred_idx", table_name="emails")
    op.drop_column("emails", "refused_at")
