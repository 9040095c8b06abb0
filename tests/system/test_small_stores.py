"""The small stores in `examples` with the real product: each does the whole integration. They share one product."""

import html
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
import pytest
from pydantic import SecretStr

from deploy.local.ports import free_ports
from deploy.local.processes import Child, Spawn
from services.conversations.webhooks.signing import sign
from shared.auth.tokens import verify_token
from shared.settings import Role, TokenSettings
from tests.helpers.waiting import eventually
from tests.system.helpers.processes import Processes, without_settings
from tests.system.helpers.product import SECRET, Product, running_product
from tests.system.helpers.small_stores import PROGRAMS, small_store, why_not

TOKENS = TokenSettings(auth_secret=[SecretStr(SECRET)])
SKIPPED = {name: why_not(name) for name in PROGRAMS}


@dataclass(frozen=True)
class Store:
    """A store that was started, and its secret for webhooks."""

    name: str
    url: str
    chats: Product
    webhook_secret: str
    processes: Processes

    @property
    def chats_url(self) -> str:
        return f"http://127.0.0.1:{self.chats.ports['api']}"


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory, fork: Spawn) -> AsyncIterator[dict[str, Store]]:
    names = [name for name, reason in SKIPPED.items() if not reason]
    directory = tmp_path_factory.mktemp("stores")
    ports = zip(names, free_ports([0] * len(names)), strict=True)
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports}
    settings = {
        "CHATS_STORE_ORIGINS": ",".join(urls.values()),
        "CHATS_LOGIN_URL": f"{urls[names[0]]}/chats",
        "CHATS_WEBHOOK_PRIVATE_HOSTS": "127.0.0.1",
    }
    async with running_product(directory / "chats", fork, **settings) as chats:
        await chats.start("api")
        secrets = {name: await webhook(chats, f"{url}/hooks/chats") for name, url in urls.items()}

        def describe(name: str) -> Child:
            environment = {
                "CHATS_URL": f"http://127.0.0.1:{chats.ports['api']}",
                "CHATS_AUTH_SECRET": SECRET,
                "CHATS_WEBHOOK_SECRET": secrets[name],
                "STORE_URL": urls[name],
                "STORE_SECRET": SECRET[::-1],
            }
            return small_store(name, directory, without_settings() | environment)

        processes = Processes({}, describe)
        try:
            await processes.launch(*names)
            await chats.start("relay", "jobs")
            yield {name: Store(name, url, chats, secrets[name], processes) for name, url in urls.items()}
        finally:
            await processes.close()


async def webhook(chats: Product, url: str) -> str:
    """Create a webhook as a store's engineer would; return its secret."""
    body = {"url": url, "types": ["conversation.created", "message.posted"]}
    answer = await chats.call("POST", "/api/v1/store/webhooks", "shop", "store", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


@dataclass
class Visitor:
    """A browser without scripts at a store: it follows links and redirects, and submits the forms of its page."""

    store: Store
    http: httpx2.AsyncClient
    page: httpx2.Response

    async def goes_to(self, path: str) -> httpx2.Response:
        self.page = await self.http.get(path)
        return self.page

    async def submits(self, button: str, **choice: str) -> httpx2.Response:
        """Submit the form that has a button with this text, with all of the form's hidden fields."""
        forms = re.findall(r"<form([^>]*)>(.*?)</form>", self.page.text, re.DOTALL)
        [(attributes, content)] = [form for form in forms if f">{button}</button>" in form[1]]
        fields = {
            name: html.unescape(value)
            for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', content)
        }
        fields |= dict(re.findall(rf'<button name="(\w+)" value="(\w+)">{button}</button>', content)) | choice
        action = re.search(r'action="([^"]*)"', attributes)
        target = self.page.url.join(action[1] if action else "")
        origin = f"{self.page.url.scheme}://{self.page.url.netloc.decode()}"
        self.page = await self.http.post(target, data=fields, headers={"Origin": origin})
        return self.page

    async def signs_in(self, name: str) -> None:
        await self.goes_to("/")
        if self.page.url.path == "/login":  # Django asks for a password
            await self.submits("Sign in", username=name.lower(), password=name.lower())
        else:
            await self.submits(name)
        assert self.page.status_code == 200, self.page.text


@pytest.fixture
async def store(stores: dict[str, Store], request: pytest.FixtureRequest) -> Store:
    store = stores[request.param]
    await store.processes.until_ready(store.name)
    return store


@pytest.fixture
async def visitor(store: Store) -> AsyncIterator[Visitor]:
    async with httpx2.AsyncClient(base_url=store.url, follow_redirects=True, timeout=20) as http:
        yield Visitor(store, http, httpx2.Response(204))


each_store = pytest.mark.parametrize(
    "store",
    [pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=reason)) for name, reason in SKIPPED.items()],
    indirect=True,
)


@each_store
async def test_a_customer_orders_asks_and_signs_out(store: Store, visitor: Visitor) -> None:
    assert (await visitor.goes_to("/chats-token")).status_code == 401
    await visitor.signs_in("Anna")
    page = await visitor.goes_to("/")
    assert '<chats-messenger token-url="/chats-token"' in page.text
    policy = page.headers["Content-Security-Policy"]
    assert f"script-src {store.chats_url}/chats-static/; " in policy
    assert "default-src 'none'; " in policy
    assert "unsafe" not in policy

    answer = await visitor.goes_to("/chats-token")
    assert "no-store" in answer.headers["Cache-Control"]
    token = answer.json()["token"]
    anna = verify_token(token, TOKENS)
    assert (anna.role, anna.name) == (Role.CUSTOMER, "Anna")

    await visitor.goes_to("/")
    page = await visitor.submits("Order a teapot")
    number = re.findall(r'data-chats-open="(\w+)"', page.text)[-1]

    async def is_known() -> bool:
        orders = (await store.chats.call("GET", "/api/v1/orders", anna.id)).json()["items"]
        return number in {order["id"] for order in orders}

    await eventually(is_known)
    async with httpx2.AsyncClient(base_url=store.chats_url, timeout=20) as browser:
        headers = {"Authorization": f"Bearer {token}", "Origin": store.url}
        question = {"subject": "My teapot", "body": "Is it blue?", "order_id": number}
        answer = await browser.post("/api/v1/conversations", json=question, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Access-Control-Allow-Origin"] == store.url

    path = f"/dashboard/messages/{answer.json()['id']}/"
    await visitor.goes_to(f"/chats?next={path}")
    page = await visitor.submits("Open the messages")
    assert str(page.url) == store.chats_url + path
    assert "Is it blue?" in page.text

    await visitor.goes_to("/")
    await visitor.submits("Sign out")

    async def is_signed_out() -> bool:
        answer = await visitor.http.get(f"{store.chats_url}{path}", follow_redirects=False)
        return answer.status_code == 303

    await eventually(is_signed_out)


@each_store
async def test_an_admin_opens_the_inbox_and_sees_events_once(store: Store, visitor: Visitor) -> None:
    await store.chats.open_conversation("carla")
    target = "/admin/dashboard/conversation/?status=OPEN"
    await visitor.goes_to(f"/chats?next={target.replace('?', '%3F')}")  # from CHATS_LOGIN_URL, signed out
    if visitor.page.url.path == "/login":
        page = await visitor.submits("Sign in", username="sam", password="sam")
    else:
        page = await visitor.submits("Sam")
    page = await visitor.submits("Open the messages")
    assert str(page.url) == f"{store.chats_url}{target}"
    assert "Where is my parcel?" in page.text
    assert (await visitor.goes_to("/chats-token")).status_code == 401  # not for the messenger

    async def has_events() -> bool:
        page = await visitor.goes_to("/")
        return {"conversation.created", "message.posted"} <= set(re.findall(r"\w+\.\w+", page.text))

    await eventually(has_events)
    moment, body = int(time.time()), '{"type": "webhook.test", "data": {}}'
    headers = {"webhook-id": "event-1", "webhook-timestamp": str(moment), "Content-Type": "application/json"}
    for secret, status in ((store.webhook_secret, 204), (store.webhook_secret, 204), (f"whsec_{'A' * 32}", 400)):
        headers["webhook-signature"] = sign([secret], "event-1", moment, body.encode())
        answer = await visitor.http.post("/hooks/chats", content=body, headers=headers)
        assert answer.status_code == status, answer.text
    assert (await visitor.goes_to("/")).text.count("webhook.test") == 1


@each_store
async def test_no_other_site_can_post_as_a_user(visitor: Visitor) -> None:
    await visitor.signs_in("Anna")
    page = await visitor.goes_to("/")
    for path in ("/", *re.findall(r'<form method="post" action="(/[^"]*)"', page.text)):
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {}):
            answer = await visitor.http.post(path, headers=headers)
            assert answer.status_code == 403, path
    after = await visitor.goes_to("/")
    assert "Sign out" in after.text
    assert after.text.count("data-chats-open") == page.text.count("data-chats-open")
