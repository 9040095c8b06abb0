"""`chats doctor` on the whole product."""

import json
from typing import Any

from tests.helpers.waiting import eventually
from tests.system.helpers.product import PROXY, Product


async def examine(product: Product, *areas: str) -> tuple[int, list[dict[str, Any]]]:
    code, output = await product.chats(
        "doctor", *areas, "--json", CHATS_REDIS_URL=product.environment["CHATS_BROKER_URL"]
    )
    return code, json.loads(output)["findings"]


async def test_a_healthy_product_has_no_fault_but_a_database_that_trades_durability_for_speed(product: Product) -> None:
    await product.start(PROXY)

    async def all_answer() -> tuple[int, list[dict[str, Any]]]:
        code, findings = await examine(product)
        assert any("1 worker answers, 0 tasks wait." in finding["text"] for finding in findings)
        return code, findings

    code, findings = await eventually(all_answer)
    faults = [finding["text"] for finding in findings if finding["severity"] == "fault"]
    assert all(" is off: a crash of the machine " in text for text in faults)
    assert code == (2 if faults else 1)
    assert {finding["area"] for finding in findings} == {
        *("settings", "databases", "broker", "feed", "files", "sign-in", "mail", "mailbox", "proxy")
    }
    texts = [finding["text"] for finding in findings if finding["severity"] == "ok"]
    assert "The API sees this machine's own address, 127.0.0.1." in texts
    assert product.environment["CHATS_AUTH_SECRET"] not in json.dumps(findings)


async def test_what_has_stopped_is_found(product: Product) -> None:
    await product.stop("worker", "notifications-api", PROXY)
    _, findings = await examine(product, "broker", "proxy")
    found = {finding["area"]: finding for finding in findings if finding["severity"] in {"warning", "fault"}}
    assert "no worker answers" in found["broker"]["text"]
    assert "cannot be reached" in found["proxy"]["text"]
    await product.start("worker", "notifications-api")
