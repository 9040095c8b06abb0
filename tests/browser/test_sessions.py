"""An ended session leads to the sign-in; a live one renews itself in the background."""

import jwt
from playwright.async_api import expect

from tests.browser.helpers.people import People, Person
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import expect_thread, send
from tests.system.helpers.product import SECRET


async def test_a_revoked_session_takes_its_open_pages_to_the_sign_in(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    dora.expect_complaints("401")
    await dora.open(await site.open_conversation(dora.id, "Revoked"))
    await expect_thread(dora.page, "Hello?")
    path = dora.page.url.removeprefix(site.origin)
    await site.end_sessions_of(dora.id)
    await expect(dora.page.get_by_role("heading", name="Sign in to the store")).to_be_visible()
    await expect(dora.page.get_by_role("paragraph")).to_have_text(path)


async def test_an_expired_token_is_renewed_by_the_page_that_needs_one(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    dora.expect_complaints("401")
    await dora.open(await site.open_conversation(dora.id, "For ten minutes"))
    await age_token(dora, minutes=11)
    await send(dora.page, "Still here")
    await expect_thread(dora.page, "Hello?", "Still here")
    await expect(dora.page.locator(".pending")).to_have_count(0)
    await age_token(dora, minutes=11)
    await dora.page.reload()
    await expect_thread(dora.page, "Hello?", "Still here")


async def test_when_another_user_signs_in_nothing_of_the_last_one_stays_on_the_screen(
    people: People, site: Site
) -> None:
    dora = await people.sign_in("dora")
    dora.expect_complaints("403", "404")
    await dora.open(await site.open_conversation(dora.id, "Private", body="For my eyes only"))
    await expect_thread(dora.page, "For my eyes only")
    emil = await people.create_user("emil")
    another_tab = await dora.context.new_page()
    await another_tab.goto(site.store.entry_url(emil, "customer", "/dashboard/messages/"))
    await another_tab.get_by_role("button", name="To my messages").click()
    await expect(another_tab.get_by_role("heading", name="Your messages")).to_be_visible()
    await expect(dora.page.get_by_text("For my eyes only")).to_have_count(0)
    await expect(dora.page.get_by_text("Emil")).to_be_visible()


async def test_without_a_session_every_page_leads_to_the_sign_in_and_back(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    dora.expect_complaints("401")
    conversation = await site.open_conversation(dora.id, "Come back")
    await dora.context.clear_cookies()
    await dora.page.goto(f"{site.origin}/dashboard/messages/{conversation}/")
    await expect(dora.page.get_by_role("paragraph")).to_have_text(f"/dashboard/messages/{conversation}/")
    await dora.enter(f"/dashboard/messages/{conversation}/")
    await expect_thread(dora.page, "Hello?")


async def age_token(person: Person, *, minutes: int) -> None:
    """Make the token in the cookie appear this old."""
    [cookie] = await person.context.cookies()
    claims = jwt.decode(cookie["value"], options={"verify_signature": False})
    older = {name: claims[name] - minutes * 60 for name in ("iat", "exp")}
    value = jwt.encode(claims | older, SECRET, algorithm="HS256")
    await person.context.add_cookies([{"name": cookie["name"], "value": value, "url": person.site.origin}])
