# ruff: noqa: RUF001 - the texts are in many scripts
"""Texts, and what people type to find them: a document has it, and the place in the text is known."""

from services.conversations.search.documents import text_of
from services.conversations.search.query import parse
from services.conversations.search.words import split, terms
from shared.database.transactions import SessionFactory, transaction, transaction_driver

# What it is about, the text, what somebody types.
PAIRS = (
    ("case", "Where is my PARCEL?", "parcel"),
    ("case", "where is it", "WHERE"),
    ("accents", "The café in the Straße", "cafe"),
    ("accents", "The cafe is closed", "café"),
    ("accents", "Cafe\u0301 composed of two", "café"),
    ("accents", "Café in one", "cafe\u0301"),
    ("accents", "Bestellung für Łukasz Øster", "lukasz oster"),
    ("accents", "Ανδρέας", "ανδρεας"),
    ("accents", "İstanbul'dan ısmarladım", "istanbul"),
    ("German", "Die Größe fehlt hier", "grosse"),
    ("German", "Die Größe fehlt hier", "groesse"),
    ("German", "Die Groesse fehlt hier", "Größe"),
    ("German", "In der Hauptstraße 5", "hauptstrasse"),
    ("German", "IN DER HAUPTSTRASSE 5", "Hauptstraße"),
    ("German", "Meine Rücksendungen fehlen", "Rücksendung"),
    ("German", "Der Rücksendeaufkleber", "Rücksende"),
    ("German", "Kundenkontoauszug anfordern", "kundenkonto"),
    ("German", "Meine Rücksendung fehlt", "Rücksendungen"),
    ("German", "Der Rücksendeaufkleber", "aufkleber"),
    ("hyphens", "A wi-fi router", "wifi"),
    ("hyphens", "A wi-fi router", "wi fi"),
    ("hyphens", "A wifi router", "wi-fi"),
    ("hyphens", "The e\u2011mail was lost", "email"),
    ("hyphens", "A T\u2010Shirt", "t-shirt"),
    ("hyphens", "lost/damaged", "damaged"),
    ("hyphens", "It is lost.Please help", "please"),
    ("order numbers", "My order SO-2024-00417 is late", "SO-2024-00417"),
    ("order numbers", "My order SO-2024-00417 is late", "#so-2024-00417"),
    ("order numbers", "My order SO-2024-00417 is late", "00417"),
    ("order numbers", "My order SO-2024-00417 is late", "417"),
    ("order numbers", "My order SO-2024-00417 is late", "so202400417"),
    ("order numbers", "My order SO-2024-00417 is late", "so 2024 00417"),
    ("order numbers", "Order #10023, please", "10023"),
    ("order numbers", "Order №10023", "#10023"),
    ("order numbers", "SO2024 is the number", "2024"),
    ("order numbers", "About A-1004", "Order A-1004"),
    ("order numbers", "About A-1004", "Bestellung Nr. A-1004"),
    ("numbers", "It was 1,299.00 €", "1299"),
    ("numbers", "Es waren 1.299,00 €", "1299"),
    ("numbers", "It was 1299 €", "1,299.00"),
    ("numbers", "It was 1,299.00 €", "1,299.00"),
    ("numbers", "The firmware v2.10", "2.10"),
    ("numbers", "The firmware v2.10", "v2.10"),
    ("numbers", "٣٤٥ ريال", "345"),
    ("addresses", "Write to anna.berg@customer.test", "anna.berg@customer.test"),
    ("addresses", "Write to anna.berg@customer.test", "berg"),
    ("addresses", "See https://www.example.com/a/b?c=1", "example.com"),
    ("quotes", "It isn\u2019t here", "isn't"),
    ("quotes", "It isn't here", "isn\u2019t"),
    ("quotes", "She said \u201cgood bye\u201d", '"good bye"'),
    ("quotes", "She said good bye", "\u201cgood bye\u201d"),
    ("quotes", "He wrote „guten Tag“", "»guten Tag«"),
    ("joiners", "The ship\u00adping is slow", "shipping"),
    ("widths", "ＡＢＣ１２３です", "abc123"),
    ("Japanese", "注文した商品が届きません", "商品"),
    ("Japanese", "ガラスが割れました", "がらす"),
    ("Japanese", "ｶﾞﾗｽが割れました", "ガラス"),
    ("Chinese", "我的包裹在哪里", "包裹"),
    ("Chinese", "退货地址是什么？", "退货地址"),
    ("Thai", "สินค้ายังไม่มาถึง", "สินค้า"),
    ("Thai", "ขอคืนเงินค่าสินค้า", "คืนเงิน"),
    ("Korean", "배송이 늦어요", "배송"),
    ("Arabic", "أين طلبي", "اين"),
    ("Hebrew", "שָׁלוֹם", "שלום"),
    ("emoji", "Thank you 👍🏽 very much", "👍"),
    ("beginnings", "The confirmation is missing", "confirm"),
)
# What nobody would expect to be found.
OTHERS = (
    ("Where is my parcel?", '"my where"'),
    ("Where is my parcel?", "parcels"),
    ("Where is my parcel?", "here"),
    ("Order SO-2024-00417", "so-2024-00418"),
    ("Order SO-2024-00417", "2024-00418"),
    ("Order 10023", "1002 3"),
    ("About A-1004", '"order" A-1004'),
    ("About A-1004", "order A-1005"),
    ("About A-1004", "order about"),
    ("我的包裹在哪里", "裹包"),
    ("ガラスが割れました", "スラガ"),
    ("It was 1,299.00 €", "299.00.1"),
)


async def finds(sessions: SessionFactory, pairs: list[tuple[str, str]]) -> list[bool]:
    """Return for each text whether its document has what was typed."""
    documents = [text_of(terms(text)) for text, _ in pairs]
    queries = [parse(typed).tsquery() for _, typed in pairs]
    async with transaction(sessions) as session:
        rows = await (await transaction_driver(session)).fetch(
            "select d::tsvector @@ q::tsquery from unnest($1::text[], $2::text[]) as pair (d, q)", documents, queries
        )
    return [row[0] for row in rows]


async def test_at_least_54_of_60_pairs_are_found(conversations: SessionFactory) -> None:
    found = await finds(conversations, [(text, typed) for _, text, typed in PAIRS])
    missing = [pair for pair, is_found in zip(PAIRS, found, strict=True) if not is_found]
    assert len(PAIRS) >= 60
    assert len(missing) * 10 <= len(PAIRS), missing
    assert {text for _, text, _ in missing} == {"Meine Rücksendung fehlt", "Der Rücksendeaufkleber"}
    for pair, is_found in zip(PAIRS, found, strict=True):
        _, text, typed = pair
        if is_found:
            assert all(any(term.find(list(split(text)))) for term in parse(typed).terms), pair


async def test_a_document_alone_may_have_too_much_but_the_text_decides(conversations: SessionFactory) -> None:
    found = await finds(conversations, list(OTHERS))
    for (text, typed), is_found in zip(OTHERS, found, strict=True):
        assert not (is_found and all(any(term.find(list(split(text)))) for term in parse(typed).terms)), (text, typed)


# After folding, these have spaces, quotes, nothing at all, or many characters for one.
AWKWARD = (
    "a\\b 'c' \"d\" \\'",
    "\u0149a \u02bcn\u02bc \u1fbd",
    "\ufdfa \ufdfb",
    "\u0300\u0301 \u200b\u200d \u00ad",
    "\u00bd \u2460 \u2075 \U0001d7d8",
    "\U000e0041 \u3164 \u115f \u1160",
    "x" * 10_000,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "a-b_c.d,e/f@g+h&i:j'k",
    "\u0e33\u0e33 \u0eb3 \uff9e\uff9f",
    "& | ! ( ) : * <-> <2> ~ = %",
)


async def test_awkward_text_is_indexed_and_searched(conversations: SessionFactory) -> None:
    found = await finds(conversations, [(text, text[:200]) for text in AWKWARD])
    for text, is_found in zip(AWKWARD, found, strict=True):
        if (query := parse(text[:200])).terms and len(text) <= 200:
            assert is_found, text
            assert all(any(term.find(list(split(text)))) for term in query.terms), text
