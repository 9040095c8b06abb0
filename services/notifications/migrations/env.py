from alembic import context

from services.notifications.models import Base
from shared.database.migrations import run_environment

run_environment(context, context.config, Base.metadata)  # type: ignore[arg-type]
