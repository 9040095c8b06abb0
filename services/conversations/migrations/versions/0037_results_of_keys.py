"""Keep the results of idempotency keys, and all secrets of webhooks that still sign."""

from collections.abc import Sequence

from alembic import op

revision: str = "0037"
down_revision: str | None = "0036"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Each statement may run again after an interruption.
    op.execute("alter table create_keys add column if not exists result jsonb")
    op.execute("alter table webhooks add column if not exists older_secrets jsonb not null default '[]'")


def downgrade() -> None:
    op.drop_column("webhooks", "older_secrets")
    op.drop_column("create_keys", "result")
