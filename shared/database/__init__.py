"""PostgreSQL: engines, transactions, migrations, readiness, errors."""
