import pytest

from services.conversations.rules import DELETABLE, EFFECTS, WAITING, ChosenStatus, Side, Status

every_status = pytest.mark.parametrize("status", Status)


@every_status
def test_after_a_customers_later_message_it_is_the_admins_turn(status: Status) -> None:
    assert EFFECTS[Side.CUSTOMER].after_later[status] is Status.AWAITING_ADMIN


@pytest.mark.parametrize("status", [Status.OPEN, Status.AWAITING_ADMIN, Status.AWAITING_USER])
def test_a_customers_first_message_leaves_the_status_unchanged(status: Status) -> None:
    assert EFFECTS[Side.CUSTOMER].after_first[status] is status


@pytest.mark.parametrize("status", [Status.RESOLVED, Status.CLOSED])
def test_a_customers_first_message_reopens_a_resolved_or_closed_conversation(status: Status) -> None:
    assert EFFECTS[Side.CUSTOMER].after_first[status] is Status.OPEN


@every_status
def test_after_an_admins_message_it_is_the_customers_turn(status: Status) -> None:
    effect = EFFECTS[Side.ADMIN]
    assert effect.after_first[status] is effect.after_later[status] is Status.AWAITING_USER


def test_what_an_admin_can_choose_are_the_statuses_and_to_keep_the_present_one() -> None:
    assert {*ChosenStatus} == {*Status, "KEEP"}


def test_a_message_is_read_by_its_own_side_and_unread_by_the_other() -> None:
    customer, admin = EFFECTS[Side.CUSTOMER], EFFECTS[Side.ADMIN]
    assert (customer.is_read_by_admin, customer.is_read_by_user, customer.answers) == (False, True, False)
    assert (admin.is_read_by_admin, admin.is_read_by_user, admin.answers) == (True, False, True)


@every_status
def test_a_message_never_leaves_a_conversation_resolved_or_closed(status: Status) -> None:
    for effect in EFFECTS.values():
        assert not {effect.after_first[status], effect.after_later[status]} & {Status.RESOLVED, Status.CLOSED}


def test_admins_have_to_answer_in_two_statuses_and_only_closed_conversations_can_be_deleted() -> None:
    assert {Status.OPEN, Status.AWAITING_ADMIN} == WAITING
    assert {Status.CLOSED} == DELETABLE
