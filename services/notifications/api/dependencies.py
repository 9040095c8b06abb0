"""Dependencies of routes: the caller by role, and the settings."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.models import Person
from services.notifications.settings import ApiSettings
from shared.api.app_state import app_state
from shared.api.dependencies import DbSession, require
from shared.auth.principal import CallerMerged, Principal
from shared.auth.tokens import check_synced_role
from shared.problems import Unauthenticated
from shared.settings import Role


async def authorize_caller(session: AsyncSession, principal: Principal) -> None:
    """Raise unless a caller may go on: `CallerMerged`, `Unauthenticated` if they were deleted, or `RoleWithdrawn`."""
    person = await session.get(Person, principal.id)
    if person is not None and person.merged_into is not None:
        raise CallerMerged(principal.id, person.merged_into)
    if person is not None and person.deleted:
        raise Unauthenticated("This user was deleted.")
    check_synced_role(principal, person.role if person is not None else None)


def _caller(*roles: Role) -> Callable[..., Coroutine[Any, Any, Principal]]:
    async def authorize(principal: Annotated[Principal, Depends(require(*roles))], session: DbSession) -> Principal:
        await authorize_caller(session, principal)
        return principal

    return authorize


async def _settings(request: Request) -> ApiSettings:
    return cast("ApiSettings", app_state(request).settings)


Admin = Annotated[Principal, Depends(_caller(Role.ADMIN), scope="function")]
Either = Annotated[Principal, Depends(_caller(Role.CUSTOMER, Role.ADMIN), scope="function")]
CurrentSettings = Annotated[ApiSettings, Depends(_settings)]
