"""Two admins in one conversation see each other, and cannot reply to a state that they have not seen."""

from playwright.async_api import Route, expect

from tests.browser.helpers.late_answer import LateAnswer
from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import expect_thread, send


async def test_other_viewers_are_shown_until_they_leave(people: People, site: Site) -> None:
    dora = await people.create_user("dora")
    sam = await people.sign_in("sam", role="admin", shown="Sam Okafor")
    kim = await people.sign_in("kim", role="admin", shown="Kim Novak")
    conversation = await site.open_conversation(dora, "Both at once")
    late = LateAnswer()
    await sam.page.route("**/viewing", late.handle, times=1)
    await sam.open(conversation)
    await late.fetched.wait()
    await kim.open(conversation)
    await expect(kim.page.locator("#viewing")).to_have_text("Sam Okafor is looking")
    await expect(sam.page.locator("#viewing")).to_have_text("Kim Novak is looking")
    async with sam.page.expect_response("**/viewing") as answer:
        late.released.set()
    await (await answer.value).finished()
    await sam.page.evaluate("new Promise((resolve) => setTimeout(resolve, 50))")
    await expect(sam.page.locator("#viewing")).to_have_text(
        "Kim Novak is looking", timeout=5_000
    )  # not by the next report
    await kim.page.locator("#reply_body").press_sequentially("I look")
    await expect(sam.page.locator("#viewing")).to_have_text("Kim Novak is writing …")
    await kim.page.locator("#reply_body").fill("")
    await expect(sam.page.locator("#viewing")).to_have_text("Kim Novak is looking")
    await kim.go()
    await expect(sam.page.locator("#viewing")).to_be_hidden()
    row = kim.page.locator(f"#c-{conversation}")
    await expect(row).to_be_visible()
    await sam.page.locator("#reply_body").press_sequentially("I write")
    await expect(row).to_contain_text("Sam Okafor is looking")
    await site.write(conversation, dora, "The row changes")
    await expect(row).to_contain_text("The row changes")
    await expect(row.locator(".looking")).to_have_text("Sam Okafor is looking")
    await sam.go("/admin/dashboard/conversation/new/")
    await expect(row.locator(".looking")).to_have_count(0)


async def test_another_admins_reply_appears_and_the_draft_is_kept(people: People, site: Site) -> None:
    dora = await people.create_user("dora")
    sam, kim = await people.sign_in("sam", role="admin"), await people.sign_in("kim", role="admin")
    conversation = await site.open_conversation(dora, "Both at once")
    for admin in (sam, kim):
        await admin.open(conversation)
    await sam.page.locator("#reply_body").fill("I look into")
    await send(kim.page, "It is on its way.")
    await expect_thread(sam.page, "Hello?", "It is on its way.")
    await expect(sam.page.locator("#reply_body")).to_have_value("I look into")
    await expect(sam.page.locator("#answered")).to_contain_text("has answered meanwhile")
    await expect(kim.page.locator("#answered")).to_be_hidden()
    await sam.page.locator("#reply_body").fill("")
    await expect(sam.page.locator("#answered")).to_be_hidden()


async def test_replies_that_cross_a_message_come_back_with_the_draft_and_the_message(
    people: People, site: Site
) -> None:
    dora = await people.create_user("dora")
    sam = await people.sign_in("sam", role="admin")
    sam.expect_complaints("409")
    conversation = await site.open_conversation(dora, "Crossing")
    await sam.open(conversation)

    async def post_first_as_customer(route: Route) -> None:
        await site.write(conversation, dora, "Never mind")
        await route.continue_()

    await sam.page.route(f"**/api/v1/admin/conversations/{conversation}", post_first_as_customer, times=1)
    await sam.page.locator("#reply_body").fill("We look into it.")
    await sam.page.get_by_role("button", name="Send and resolve").click()
    await expect(sam.page.get_by_role("alert")).to_contain_text("There is a new message")
    await expect(sam.page.locator("#reply_body")).to_have_value("We look into it.")
    await expect_thread(sam.page, "Hello?", "Never mind")
    assert (await site.conversation(conversation))["status"] == "AWAITING_ADMIN"
    await sam.page.get_by_role("button", name="Send", exact=True).click()
    await expect_thread(sam.page, "Hello?", "Never mind", "We look into it.")
    await expect(sam.page.get_by_role("alert")).to_have_count(0)


async def test_of_two_admins_who_claim_a_conversation_the_second_sees_the_first(people: People, site: Site) -> None:
    dora = await people.create_user("dora")
    kim, sam = [await people.sign_in(name, role="admin") for name in ("kim", "sam")]
    sam.expect_complaints("409")
    conversation = await site.open_conversation(dora, "Where is it?")
    late = LateAnswer()
    await sam.open(conversation)
    await sam.page.route(f"**/{conversation}/?*", late.handle)  # the refresh that would show the other claim
    await sam.page.locator("#assignee").select_option(sam.id)
    await kim.open(conversation)
    await kim.page.locator("#assignee").select_option(kim.id)
    await kim.page.get_by_role("button", name="Assign", exact=True).click()
    await expect(kim.page.locator(".entry.assignment")).to_contain_text("Kim took this conversation")
    await sam.page.get_by_role("button", name="Assign", exact=True).click()
    late.released.set()
    await expect(sam.page.locator("#assignee-changed")).to_be_visible()
    await expect(sam.page.locator("#assignee")).to_have_value(kim.id)
    assert (await site.conversation(conversation))["assignee"]["id"] == kim.id
