"""The example shop as its own process with the real product: the store's side of the integration."""

import html
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import httpx2
import pytest
from pydantic import SecretStr

from deploy.local.processes import Spawn
from shared.auth.tokens import verify_token
from shared.settings import TokenSettings
from tests.helpers.waiting import eventually
from tests.system.helpers.product import SECRET
from tests.system.helpers.shop import Store, running_store

NEW_MESSAGE = "/dashboard/messages/new/?order_id=A-1007"
TOKENS = TokenSettings(auth_secret=[SecretStr(SECRET)])


@pytest.fixture(scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory, fork: Spawn) -> AsyncIterator[Store]:
    async with running_store(tmp_path_factory.mktemp("store"), fork) as store:
        await store.chats.start("api")

        async def pushed() -> bool:
            return "A-1012" in await store.orders("chloe")  # the last order

        await eventually(pushed, 30)
        yield store


@dataclass
class Person:
    """A browser without scripts: it follows links and redirects, and submits the forms of its page."""

    store: Store
    http: httpx2.AsyncClient
    page: httpx2.Response

    async def goes_to(self, url: str) -> httpx2.Response:
        self.page = await self.http.get(url)
        return self.page

    async def submits(self, action: str, **choice: str) -> httpx2.Response:
        """Submit the form of the page whose action begins with this."""
        found = re.search(rf'<form[^>]* action="({re.escape(action)}[^"]*)">(.*?)</form>', self.page.text, re.DOTALL)
        assert found, f"no form for {action} on {self.page.url}:\n{self.page.text}"
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', found[2]))
        fields = {name: html.unescape(value) for name, value in hidden.items()} | choice
        target = self.page.url.join(html.unescape(found[1]))
        origin = f"{self.page.url.scheme}://{self.page.url.netloc.decode()}"
        self.page = await self.http.post(target, data=fields, headers={"Origin": origin})
        return self.page

    async def signs_in(self, name: str, wanted: str = "") -> httpx2.Response:
        await self.goes_to("/login" + (f"?next={wanted}" if wanted else ""))
        return await self.submits("/login", user=name)

    async def opens_chats(self, path: str = "") -> httpx2.Response:
        await self.goes_to(f"/chats?next={path}")
        return await self.submits(f"{self.store.chats_url}/session")


@pytest.fixture
async def browser(store: Store) -> AsyncIterator[Callable[[], Person]]:
    opened: list[httpx2.AsyncClient] = []

    def browser() -> Person:
        opened.append(httpx2.AsyncClient(base_url=store.url, follow_redirects=True, timeout=20))
        return Person(store, opened[-1], httpx2.Response(204))

    yield browser
    for client in opened:
        await client.aclose()


Open = Callable[[], Person]


async def test_the_product_learns_the_shops_users_and_orders_from_before_its_start(store: Store) -> None:
    order = (await store.orders("chloe"))["A-1006"]
    assert (order["total"], order["currency"], order["status"]) == ("69.40", "EUR", "shipped")
    assert order["url"] == f"{store.url}/orders/A-1006"
    people = (await store.chats.call("GET", "/api/v1/admin/users", "sam", "admin")).json()["items"]
    [chloe] = [user for user in people if user["id"] == "chloe"]
    assert (chloe["name"], chloe["email"], list(chloe["custom"])) == ("Chloé", "chloe@example.net", ["Loyalty card"])


async def test_a_customer_gets_from_an_order_to_a_new_conversation_about_it(store: Store, browser: Open) -> None:
    anna = browser()
    orders = await anna.signs_in("anna")
    assert orders.url.path == "/orders"
    assert 'href="/chats?next=/dashboard/messages/new/%3Forder_id%3DA-1007"' in orders.text
    page = await anna.opens_chats(NEW_MESSAGE.replace("?", "%3F"))
    assert str(page.url) == store.chats_url + NEW_MESSAGE
    assert page.status_code == 200
    assert "A-1007" in page.text


async def test_an_admin_gets_to_the_support_inbox(store: Store, browser: Open) -> None:
    sam = browser()
    assert (await sam.signs_in("sam")).url.path == "/admin"
    page = await sam.opens_chats()
    assert str(page.url) == f"{store.chats_url}/admin/dashboard/conversation/"
    assert page.status_code == 200


async def test_a_user_who_starts_at_the_product_signs_in_and_returns_to_the_page(store: Store, browser: Open) -> None:
    ben = browser()
    page = await ben.goes_to(f"{store.chats_url}/dashboard/messages/new/?order_id=A-1008")
    assert str(page.url.copy_with(query=None)) == f"{store.url}/login"
    await ben.submits("/login", user="ben")
    page = await ben.submits(f"{store.chats_url}/session")
    assert str(page.url) == f"{store.chats_url}/dashboard/messages/new/?order_id=A-1008"
    assert page.status_code == 200


async def test_after_another_user_signs_in_at_the_shop_the_product_shows_that_user(browser: Open) -> None:
    person = browser()
    await person.signs_in("anna")
    await person.opens_chats()
    await person.goes_to("/")
    await person.submits("/logout")
    await person.signs_in("ben")
    page = await person.opens_chats("/dashboard/messages/new/")
    assert "A-1008" in page.text
    assert "A-1007" not in page.text


async def test_shipping_an_order_updates_it_in_the_product(store: Store, browser: Open) -> None:
    sam = browser()
    await sam.signs_in("sam")
    await sam.submits("/orders/A-1008/ship")

    async def shipped() -> bool:
        return bool((await store.orders("ben"))["A-1008"]["status"] == "shipped")

    await eventually(shipped)
    assert "A-1008/ship" not in sam.page.text


async def test_a_new_order_reaches_the_product_and_survives_a_shop_restart(store: Store, browser: Open) -> None:
    chloe = browser()
    await chloe.signs_in("chloe")
    await chloe.goes_to("/")
    await chloe.submits("/orders", product="Mug, speckled")

    async def known() -> bool:
        return "A-1013" in await store.orders("chloe")

    await eventually(known)
    await store.processes.stop("shop")
    await store.processes.start("shop")
    assert "A-1013" in (await chloe.goes_to("/orders")).text


async def test_signing_out_of_the_shop_ends_the_sessions_in_the_product(store: Store, browser: Open) -> None:
    here, there = browser(), browser()
    for person in (here, there):
        await person.signs_in("chloe")
        await person.opens_chats()
    await here.goes_to("/")
    await here.submits("/logout")
    inbox = f"{store.chats_url}/dashboard/messages/"
    assert (await here.goes_to(inbox)).url.path == "/login"
    # In the other browser the shop's session is still valid, so the shop passes the user on again.
    assert (await there.goes_to(inbox)).url.path == "/chats"
    assert str((await there.submits(f"{store.chats_url}/session")).url) == inbox


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example/orders",
        "/\\evil.example",
        "javascript:alert(1)",
        "/orders\n//evil.example",
        "/orders/../../evil",
        "/logout",
        "@evil.example/dashboard/messages/",
    ],
)
async def test_the_sign_in_redirects_only_to_the_shop_and_the_product(store: Store, browser: Open, wanted: str) -> None:
    anna = browser()
    await anna.goes_to(str(httpx2.URL("/login", params={"next": wanted})))
    page = await anna.submits("/login", user="anna")
    assert str(page.url) == f"{store.url}/orders"
    page = await anna.goes_to(str(httpx2.URL("/chats", params={"next": wanted})))
    assert '<input type="hidden" name="next" value="/dashboard/messages/">' in page.text
    assert f'action="{store.chats_url}/session"' in page.text


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1:1"])
@pytest.mark.parametrize("path", ["/login", "/logout", "/orders", "/orders/A-1012/ship"])
async def test_no_other_site_can_post_as_a_user(browser: Open, origin: str | None, path: str) -> None:
    sam = browser()
    await sam.signs_in("sam")
    headers = {"Origin": origin} if origin else {}
    answer = await sam.http.post(path, data={"user": "anna", "product": "Mug, speckled"}, headers=headers)
    assert answer.status_code == 403
    admin = await sam.goes_to("/admin")
    assert admin.status_code == 200
    assert "A-1012/ship" in admin.text


async def test_only_the_shop_itself_gets_a_token_for_its_user(browser: Open) -> None:
    anna = browser()
    assert (await anna.goes_to("/chats-token")).status_code == 401
    await anna.signs_in("anna")
    answer = await anna.goes_to("/chats-token")
    principal = verify_token(answer.json()["token"], TOKENS)
    assert (principal.id, principal.role, principal.zoneinfo) == ("anna", "customer", "Europe/London")
    assert answer.headers["Cache-Control"] == "no-store"
    for site in ("cross-site", "same-site", "none"):
        answer = await anna.http.get("/chats-token", headers={"Sec-Fetch-Site": site, "Origin": "https://evil.example"})
        assert answer.status_code == 403
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_any_store_may_load_the_messenger(store: Store) -> None:
    async with httpx2.AsyncClient(base_url=store.chats_url, timeout=30) as client:
        answer = await client.get("/chats-static/messenger.js")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Cache-Control"] == "public, max-age=300"
        assert answer.headers["Content-Type"].startswith("text/javascript")
        again = await client.get("/chats-static/messenger.js", headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304


@pytest.mark.parametrize("cookie", ["", "x", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzYW0ifQ."])
async def test_without_a_shop_session_everything_redirects_to_the_sign_in(browser: Open, cookie: str) -> None:
    stranger = browser()
    stranger.http.cookies.set("shop", cookie)
    for path in ("/orders", "/orders/A-1001", "/orders/A-9999", "/admin", "/chats"):
        assert (await stranger.goes_to(path)).url.path == "/login"


async def test_a_product_token_is_not_a_shop_session(browser: Open) -> None:
    anna = browser()
    await anna.signs_in("anna")
    token = (await anna.goes_to("/chats-token")).json()["token"]
    thief = browser()
    thief.http.cookies.set("shop", token)
    assert (await thief.goes_to("/orders")).url.path == "/login"


async def test_customers_see_only_their_own_orders(browser: Open) -> None:
    anna = browser()
    await anna.signs_in("anna")
    assert "A-1002" not in (await anna.goes_to("/orders")).text
    assert (await anna.goes_to("/orders/A-1001")).status_code == 200
    assert (await anna.goes_to("/orders/A-1002")).status_code == 404
    assert (await anna.goes_to("/admin")).status_code == 403
    assert (await anna.http.post("/orders/A-1010/ship", headers={"Origin": anna.store.url})).status_code == 403


async def test_another_host_name_redirects_to_the_configured_origin(store: Store, browser: Open) -> None:
    there = await browser().goes_to(f"{store.url.replace('127.0.0.1', 'localhost')}/login?next=/orders")
    assert str(there.url) == f"{store.url}/login?next=/orders"
