"""The identity of a database, by which a restored backup or a failover is noticed."""


def database_identity_sql(table: str) -> str:
    """Return the SQL of an identity that changes when a table is restored, failed over, moved or recreated.

    It consists of the server's identifier, its timeline, and the ids of the database and the table. The timeline is
    that of the write-ahead log: the control file is updated minutes later. Restoring a storage snapshot changes none.
    """
    return f"""(
        (select system_identifier from pg_control_system()) || ':' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
        || ':' || (select oid from pg_database where datname = current_database()) || ':' || '{table}'::regclass::oid
    )"""  # noqa: S608 - a constant
