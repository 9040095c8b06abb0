"""Dependencies of routes: the caller by role, and the settings."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, cast

from fastapi import Depends, Request

from services.notifications.models import Person
from services.notifications.settings import ApiSettings
from shared.api.app_state import app_state
from shared.api.dependencies import DbSession, require
from shared.auth.principal import CallerMerged, Principal
from shared.auth.tokens import check_synced_role
from shared.problems import Unauthenticated
from shared.settings import Role


def _caller(*roles: Role) -> Callable[..., Coroutine[Any, Any, Principal]]:
    async def check(principal: Annotated[Principal, Depends(require(*roles))], session: DbSession) -> Principal:
        person = await session.get(Person, principal.id)
        if person is not None and person.merged_into is not None:
            raise CallerMerged(principal.id, person.merged_into)
        if person is not None and person.deleted:
            raise Unauthenticated("This user was deleted.")
        check_synced_role(principal, person.role if person is not None else None)
        return principal

    return check


async def _settings(request: Request) -> ApiSettings:
    return cast("ApiSettings", app_state(request).settings)


Admin = Annotated[Principal, Depends(_caller(Role.ADMIN), scope="function")]
Either = Annotated[Principal, Depends(_caller(Role.CUSTOMER, Role.ADMIN), scope="function")]
CurrentSettings = Annotated[ApiSettings, Depends(_settings)]
