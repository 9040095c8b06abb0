"""Real mail servers between a store and its customer. Skipped without them; in CI they must be there.

`.ci/run` unpacks them. With `EVERY_CASE=1`, as in `make verify`, each case runs with each server.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local.ports import free_ports
from tests.real_mail.helpers.dovecot import dovecot
from tests.real_mail.helpers.exim import exim
from tests.real_mail.helpers.postfix import postfix
from tests.real_mail.helpers.programs import IS_DEBIAN, IS_ROOT, MISSING
from tests.real_mail.helpers.town import Servers, Town
from tests.service.conftest import (  # noqa: F401 - fixtures
    acting_as,
    anna,
    api,
    conversations,
    conversations_engine,
    databases,
    files_url,
    notifications,
    notifications_engine,
    owner_urls,
    postgres,
    sam,
    shop,
    sweeping,
)
from tests.service.helpers.callers import Caller
from tests.service.helpers.sweeping import Sweeper
from tests.service.inbound.rig import DOMAIN, SUPPORT_ADDRESS, running_rig

CUSTOMERS = {"anna": "", "full": "1B", "away": "", "store": ""}  # their quotas; the last one is the store's mailbox
SCRIPTS = {"away": 'require "vacation"; vacation :days 1 "I am in the mountains.";'}


def pytest_pycollect_makemodule() -> None:
    """Report missing servers once, not for every test."""
    if MISSING and os.environ.get("CI") and IS_DEBIAN and IS_ROOT:
        pytest.fail(MISSING, pytrace=False)
    if MISSING:
        pytest.skip(MISSING)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Run the mail servers."""
    inbound, lmtp, nothing = free_ports([0, 0, 0])
    others = {"customer.test": lmtp, "slow.test": nothing}
    with ExitStack() as stack:
        # Only root reaches the directories of pytest, and the servers have users of their own.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mail-servers-")))
        directory.chmod(0o755)
        our_postfix = stack.enter_context(postfix(directory / "postfix", DOMAIN, SUPPORT_ADDRESS, inbound, others))
        our_exim = stack.enter_context(exim(directory / "exim", DOMAIN, SUPPORT_ADDRESS, inbound, others))
        mailboxes = dovecot(directory / "dovecot", lmtp, our_postfix.mx, CUSTOMERS, SCRIPTS)
        yield Servers(our_postfix, our_exim, stack.enter_context(mailboxes), inbound)


@pytest.fixture
async def town(
    servers: Servers,
    sweeping: Sweeper,  # noqa: F811 - the fixture above
    anna: Caller,  # noqa: F811 - the same
    sam: Caller,  # noqa: F811 - the same
    shop: Caller,  # noqa: F811 - the same
) -> AsyncIterator[Town]:
    async with running_rig(sweeping, anna, sam, port=servers.inbound) as rig:
        rig.shop_headers = shop.headers
        yield Town(rig, servers)
