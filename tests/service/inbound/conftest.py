from collections.abc import AsyncIterator

import pytest

from tests.service.conftest import As
from tests.service.helpers.callers import Caller
from tests.service.helpers.sweeping import Sweeper
from tests.service.inbound.rig import Rig, running_rig


@pytest.fixture
async def rig(sweeping: Sweeper, anna: Caller, sam: Caller, shop: Caller, acting_as: As) -> AsyncIterator[Rig]:
    async with running_rig(sweeping, anna, sam) as running:
        running.shop_headers, running.acting_as = shop.headers, acting_as
        yield running
