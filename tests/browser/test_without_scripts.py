"""Everything works without JavaScript, with links, forms and reloads."""

from functools import partial

from playwright.async_api import expect

from tests.browser.helpers.people import People, Person
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import expect_thread


async def sign_in_both(people: People) -> tuple[Person, Person]:
    dora = await people.sign_in("dora", shown="Dora Lind", java_script_enabled=False)
    return dora, await people.sign_in("sam", role="admin", java_script_enabled=False)


async def test_a_question_about_an_order_is_answered_resolved_and_reopened(people: People, site: Site) -> None:
    dora, sam = await sign_in_both(people)
    dora.expect_complaints("422")
    order = await site.order(dora.id, "R-1001")
    await dora.page.get_by_role("link", name="Write to us").click()
    await dora.page.get_by_role("button", name="Send").click()
    await expect(dora.page.get_by_role("alert")).to_be_visible()
    await dora.page.get_by_label("Message", exact=True).fill("€" * 70_000)
    await dora.page.get_by_role("button", name="Send").click()
    await expect(dora.page.get_by_text("This is too long. Use at most 10000 characters.")).to_be_visible()
    await dora.page.get_by_label("Subject").fill("The lid is missing")
    await dora.page.get_by_label("Is it about an order?").select_option(order)
    await dora.page.get_by_label("Message", exact=True).fill("There was no lid in the box.")
    await dora.page.get_by_role("button", name="Send").click()
    await expect_thread(dora.page, "There was no lid in the box.")

    await sam.go(f"{sam.home}?user_id={dora.id}")
    await sam.page.get_by_role("link", name="The lid is missing").click()
    await sam.page.get_by_label("Your reply").fill("A lid is on its way.")
    await sam.page.get_by_role("button", name="Send and resolve").click()
    await expect(sam.page.locator("#status")).to_have_text("Resolved")

    await dora.go()
    await expect(dora.page.locator("#unread")).to_contain_text("1")
    assert (await dora.page.title()).startswith("(1) ")
    await dora.page.get_by_role("link", name="The lid is missing").click()
    await expect(dora.page.locator("#status")).to_have_text("Solved")
    await dora.page.get_by_role("textbox", name="Your message").fill("It is the wrong lid.")
    await dora.page.set_viewport_size({"width": 390, "height": 844})
    send = dora.page.get_by_role("button", name="Send")
    box = await send.bounding_box()
    assert box is not None
    assert box["width"] > box["height"]  # the browser's own file field leaves it room
    await send.click()
    await expect(dora.page.locator("#status")).to_have_text("Waiting for our reply")
    await sam.page.reload()
    await expect(sam.page.locator("#status")).to_have_text("Customer replied")
    await expect_thread(sam.page, "There was no lid in the box.", "A lid is on its way.", "It is the wrong lid.")


async def test_an_admin_opens_a_conversation_sets_its_status_marks_it_unread_and_deletes_it(
    people: People, site: Site
) -> None:
    dora, sam = await sign_in_both(people)
    await sam.page.get_by_role("link", name="New conversation").click()
    await sam.page.get_by_label("Choose a customer").fill(dora.id)
    await sam.page.get_by_role("button", name="Search").click()
    await sam.page.get_by_role("link", name="Dora Lind").click()
    await sam.page.get_by_label("Subject").fill("About your teapot")
    await sam.page.get_by_label("Message", exact=True).fill("It has a crack.")
    await sam.page.get_by_role("button", name="Send", exact=True).click()
    await expect_thread(sam.page, "It has a crack.")

    await sam.page.get_by_role("combobox", name="Status").select_option("CLOSED")
    await sam.page.get_by_role("button", name="Send", exact=True).click()
    await expect(sam.page.locator("#status")).to_have_text("Closed")
    assert (await site.conversations_of(dora.id))[0]["message_count"] == 1
    await sam.page.get_by_role("button", name="Mark as unread").click()
    await expect(sam.page.get_by_role("heading", name="Inbox")).to_be_visible()

    other = await site.open_conversation(dora.id, "Still open")
    await sam.go(f"{sam.home}?user_id={dora.id}")
    await expect(sam.page.locator(".row.unread")).to_have_count(2)
    for box in await sam.page.get_by_role("checkbox", name="Select").all():
        await box.check()
    await sam.page.locator(".bulk-menu summary").click()
    await sam.page.get_by_role("button", name="Delete selected").click()
    await expect(sam.page.get_by_role("alert")).to_contain_text("not closed")
    await sam.page.get_by_role("link", name="Skip conversations that are not closed").click()
    await sam.page.get_by_role("button", name="Delete conversation").click()
    await expect(sam.page.get_by_text("1 conversation deleted.")).to_be_visible()
    assert [conversation["id"] for conversation in await site.conversations_of(dora.id)] == [other]


async def test_a_form_that_is_sent_twice_leads_to_the_first_result(people: People, site: Site) -> None:
    dora, sam = await sign_in_both(people)
    await dora.go(f"{dora.home}new/")
    await dora.page.get_by_label("Subject").fill("Twice")
    await dora.page.get_by_label("Message", exact=True).fill("Once")
    await dora.page.get_by_role("button", name="Send").dblclick()
    await expect_thread(dora.page, "Once")
    [conversation] = [item["id"] for item in await site.conversations_of(dora.id)]

    await dora.page.get_by_role("textbox", name="Your message").fill("Once more")
    await dora.page.get_by_role("button", name="Send").dblclick()
    await expect_thread(dora.page, "Once", "Once more")
    await sam.open(conversation)
    await sam.page.get_by_label("Your reply").fill("An answer")
    await sam.page.get_by_role("button", name="Send", exact=True).dblclick()
    await expect_thread(sam.page, "Once", "Once more", "An answer")
    assert await site.bodies(conversation) == ["Once", "Once more", "An answer"]
    # The first submission is aborted by the second one.
    for person in (dora, sam):
        person.expect_complaints("net::ERR_ABORTED")


async def test_back_and_forward_show_the_current_state_and_send_nothing_again(people: People, site: Site) -> None:
    dora, _ = await sign_in_both(people)
    conversation = await site.open_conversation(dora.id, "Back and forth")
    await dora.go()
    await dora.page.get_by_role("link", name="Back and forth").click()
    await dora.page.get_by_role("textbox", name="Your message").fill("One")
    await dora.page.get_by_role("button", name="Send").click()
    await expect_thread(dora.page, "Hello?", "One")
    await site.answer(conversation, "Two")
    for step in (partial(dora.page.go_back), partial(dora.page.go_forward), partial(dora.page.reload)):
        await step()
        await expect_thread(dora.page, "Hello?", "One", "Two")
    await dora.page.go_back()
    await dora.page.go_back()
    await expect(dora.page.locator(f"#c-{conversation}")).to_contain_text("Two")
    assert await site.bodies(conversation) == ["Hello?", "One", "Two"]


async def test_replies_that_cross_a_message_come_back_with_the_draft_and_the_message(
    people: People, site: Site
) -> None:
    dora, sam = await sign_in_both(people)
    for person in (dora, sam):
        person.expect_complaints("409")
    conversation = await site.open_conversation(dora.id, "Crossing")
    await sam.open(conversation)
    await site.write(conversation, dora.id, "Never mind")
    await sam.page.get_by_label("Your reply").fill("We look into it.")
    await sam.page.get_by_role("button", name="Send and resolve").click()
    await expect(sam.page.get_by_role("alert")).to_contain_text("The customer sent a new message")
    await expect_thread(sam.page, "Hello?", "Never mind")
    await expect(sam.page.get_by_label("Your reply")).to_have_value("We look into it.")
    assert (await site.conversation(conversation))["status"] == "AWAITING_ADMIN"
    await sam.page.get_by_role("button", name="Send", exact=True).click()
    await expect_thread(sam.page, "Hello?", "Never mind", "We look into it.")

    await dora.open(conversation)
    await site.answer(conversation, "By the way")
    await dora.page.get_by_role("textbox", name="Your message").fill("Thanks")
    await dora.page.get_by_role("button", name="Send").click()
    await expect(dora.page.get_by_role("alert")).to_contain_text("We sent you a new message")
    await expect(dora.page.get_by_role("textbox", name="Your message")).to_have_value("Thanks")
    await dora.page.get_by_role("button", name="Send").click()
    await expect_thread(dora.page, "Hello?", "Never mind", "We look into it.", "By the way", "Thanks")
