from itertools import product

import pytest

from services.conversations.rules import DELETABLE, EFFECTS, WAITING, Side, Status, status_after_message

every_status = pytest.mark.parametrize("status", Status)


@every_status
def test_a_customers_later_message_is_for_the_admins_to_answer(status: Status) -> None:
    assert status_after_message(status, Side.CUSTOMER, first=False) is Status.AWAITING_ADMIN


@pytest.mark.parametrize("status", [Status.OPEN, Status.AWAITING_ADMIN, Status.AWAITING_USER])
def test_a_customers_first_message_leaves_the_status_as_it_is(status: Status) -> None:
    assert status_after_message(status, Side.CUSTOMER, first=True) is status


@pytest.mark.parametrize("status", [Status.RESOLVED, Status.CLOSED])
def test_a_customers_first_message_opens_what_was_settled(status: Status) -> None:
    assert status_after_message(status, Side.CUSTOMER, first=True) is Status.OPEN


@pytest.mark.parametrize(("status", "first"), list(product(Status, [True, False])))
def test_an_admins_message_is_for_the_customer_to_answer(status: Status, first: bool) -> None:
    assert status_after_message(status, Side.ADMIN, first=first) is Status.AWAITING_USER


@pytest.mark.parametrize(("status", "chosen", "first"), list(product(Status, Status, [True, False])))
def test_the_status_that_an_admin_chose_counts(status: Status, chosen: Status, first: bool) -> None:
    assert status_after_message(status, Side.ADMIN, first=first, chosen=chosen) is chosen


def test_a_message_is_read_by_its_own_side_and_unread_by_the_other() -> None:
    customer, admin = EFFECTS[Side.CUSTOMER], EFFECTS[Side.ADMIN]
    assert (customer.is_read_by_admin, customer.is_read_by_user, customer.answers) == (False, True, False)
    assert (admin.is_read_by_admin, admin.is_read_by_user, admin.answers) == (True, False, True)


@every_status
def test_a_message_never_leaves_a_conversation_settled(status: Status) -> None:
    for side, first in product(Side, [True, False]):
        assert status_after_message(status, side, first=first) not in {Status.RESOLVED, Status.CLOSED}


def test_somebody_waits_in_two_statuses_and_only_what_is_closed_can_be_deleted() -> None:
    assert {Status.OPEN, Status.AWAITING_ADMIN} == WAITING
    assert {Status.CLOSED} == DELETABLE
