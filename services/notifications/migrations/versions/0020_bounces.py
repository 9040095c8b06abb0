"""Record bounces, and addresses to which no email is sent any more."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "bounces",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("email_id", sa.Uuid(), nullable=False),
        sa.Column("address_hash", sa.LargeBinary()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("consequence", sa.Text(), nullable=False),
        sa.Column("permanent", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="bounces_pkey"),
    )
    op.create_index("bounces_address_hash_idx", "bounces", ["address_hash"])
    op.create_table(
        "suppressions",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("address_hash", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.Text()),
        sa.Column("email_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="suppressions_pkey"),
        sa.UniqueConstraint("address_hash", name="suppressions_address_hash_key"),
    )
    op.create_index("suppressions_user_id_idx", "suppressions", ["user_id"])
    # All rows satisfy it: it only allows one value more.
    op.execute("alter table emails drop constraint emails_state_check")
    op.execute("""
        alter table emails add constraint emails_state_check
        check (state in ('scheduled', 'sending', 'sent', 'failed', 'cancelled', 'suppressed', 'bounced')) not valid
    """)


def downgrade() -> None:
    op.execute("delete from email_tries where outcome = 'bounced'")
    op.execute("update emails set state = 'sent', reason = null where state = 'bounced'")
    op.execute("alter table emails drop constraint emails_state_check")
    op.execute("""
        alter table emails add constraint emails_state_check
        check (state in ('scheduled', 'sending', 'sent', 'failed', 'cancelled', 'suppressed'))
    """)
    op.drop_table("suppressions")
    op.drop_table("bounces")
