"""The audit: append-only, with a partition for each month."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0024"
down_revision: str | None = "0023"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.Uuid, server_default=sa.func.uuidv7(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
        sa.Column("actor_id", sa.Text, nullable=False),
        sa.Column("actor_role", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Uuid),
        sa.Column("target_id", sa.Text),
        sa.Column("data", postgresql.JSONB),
        sa.Column("address", sa.Text),
        sa.Column("request_id", sa.Uuid),
        postgresql_partition_by="RANGE (at)",
    )
    # No primary key: `pg_restore --clean` tries to drop that of each partition, which PostgreSQL refuses.
    op.create_index("audit_entries_key", "audit_entries", ["at", "id"], unique=True)
    op.create_index("audit_entries_actor_idx", "audit_entries", ["actor_id", "at", "id"])
    op.create_index("audit_entries_action_idx", "audit_entries", ["action", "at", "id"])
    op.create_index(
        "audit_entries_conversation_idx",
        "audit_entries",
        ["conversation_id", "at", "id"],
        postgresql_where=sa.text("conversation_id is not null"),
    )
    op.create_index(
        "audit_entries_read_key",
        "audit_entries",
        ["at", "actor_id", "conversation_id"],
        unique=True,
        postgresql_where=sa.text("action = 'conversation.read'"),
    )
    # Also for the owner, who has all rights to the table.
    op.execute("""
        create function audit_refuse_changes() returns trigger language plpgsql as $$
        begin
            raise exception 'The audit is append-only.' using errcode = 'insufficient_privilege';
        end $$
    """)
    op.execute("""
        create trigger audit_entries_append_only before update or delete on audit_entries
        for each row execute function audit_refuse_changes()
    """)
    # If no partition was created in time, an act must not fail.
    op.execute("create table audit_entries_default partition of audit_entries default")
    # The role of the service calls these with the rights of the owner, so it can drop what is old and nothing else.
    op.execute("""
        create function audit_keep_partitions(days double precision) returns int
        language plpgsql security definer set search_path = pg_catalog, public, pg_temp set lock_timeout = '2s' as $$
        declare
            this_month timestamp := date_trunc('month', clock_timestamp() at time zone 'UTC');
            month timestamp;
            name text;
            dropped int := 0;
        begin
            for ahead in 0..3 loop
                month := this_month + make_interval(months => ahead);
                name := 'audit_entries_' || to_char(month, 'YYYY_MM');
                if to_regclass('public.' || name) is null and not exists (
                    select from public.audit_entries_default
                    where at >= month at time zone 'UTC' and at < (month + interval '1 month') at time zone 'UTC'
                ) then
                    execute format(
                        'create table public.%I partition of public.audit_entries for values from (%L) to (%L)',
                        name, month at time zone 'UTC', (month + interval '1 month') at time zone 'UTC'
                    );
                end if;
            end loop;
            for name, month in
                select relname, to_date(right(relname, 7), 'YYYY_MM')
                from pg_inherits join pg_class on pg_class.oid = inhrelid
                where inhparent = 'public.audit_entries'::regclass and relname ~ '_[0-9]{4}_[0-9]{2}$'
            loop
                if (month + interval '1 month') at time zone 'UTC'
                    <= clock_timestamp() - make_interval(secs => greatest(days, 30) * 86400)
                then
                    execute format('drop table public.%I', name);
                    dropped := dropped + 1;
                end if;
            end loop;
            return dropped;
        end $$
    """)
    op.execute("select audit_keep_partitions(36500)")


def downgrade() -> None:
    op.execute("drop function audit_keep_partitions")
    op.drop_table("audit_entries")
    op.execute("drop function audit_refuse_changes")
