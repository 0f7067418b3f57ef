"""Searching customers: by keyword, and page by page."""

from itertools import combinations, product
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallymarks import limits
from tallymarks.customers import search_pieces
from tallymarks.database import Database
from tallymarks.service import new_id
from tallymarks.sql import customers as sql
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import listed, pages, refused
from tests.integration.api.given import ALL_FIELDS, CUSTOMERS, a_customer, bare_customers
from tests.parts import ApiClient, Tenant

SEARCHED = [
    "firstName",
    "lastName",
    "displayName",
    "emailAddress",
    "contactPhone",
    "mobileNumber",
    "externalReference",
]
FOLDED = {
    "ångström": "ÅNGSTRÖM",
    "ÑANDÚ": "ñandú",
    "GASSE": "Sackgaße",
    "straße": "HAUPTSTRASSE",
    "ΟΔΥΣΣΕΎΣ": "οδυσσεύς",
    "дом": "ДОМ",
}
"""Keyword → a name that has it."""
FOUND = [
    "customerId",
    "tenantId",
    "firstName",
    "lastName",
    "displayName",
    "emailAddress",
    "createdAt",
    "changedAt",
    "contactPhone",
    "externalReference",
    "externalStatus",
]


async def found(api: ApiClient, keyword: str, **query: object) -> list[str]:
    return [row["customerId"] for row in await listed(api, CUSTOMERS, "customers", keyword=keyword, **query)]


async def test_a_found_customer_has_the_fields_of_the_page(integration: ApiClient) -> None:
    created = await a_customer(integration, **ALL_FIELDS)
    assert await listed(integration, CUSTOMERS, "customers") == [{name: created[name] for name in FOUND}]


async def test_a_keyword_is_looked_for_in_each_field_without_regard_to_case(api: ApiClient) -> None:
    for field in SEARCHED:
        wanted = (await a_customer(api, **{field: f"Begin-{field}@MIDDLE-{field}-End"}))["customerId"]
        for keyword in (f"begin-{field}", f"N-{field}@m", f"middle-{field.upper()}", f"{field}-END"):
            assert await found(api, keyword) == [wanted], keyword
        assert await found(api, f"{field}-ends") == []


async def test_what_is_no_name_phone_or_reference_is_not_searched(api: ApiClient) -> None:
    await a_customer(api, externalStatus="delinquent", attributes=[{"key": "tier", "value": "gold"}])
    for keyword in ("delinquent", "tier", "gold"):
        assert await found(api, keyword) == []


async def test_a_keyword_does_not_match_across_fields(api: ApiClient) -> None:
    await a_customer(api, firstName="Ada", lastName="Lovelace")
    assert await found(api, "AdaLovelace") == []
    assert await found(api, "Ada Lovelace") == []


async def test_wildcards_of_the_database_are_ordinary_characters(api: ApiClient) -> None:
    names = ["axxb plain", "100% cotton", "snake_case", "back\\slash", "xa%by", "escaped\\% sign", "a__b"]
    by_name = {name: (await a_customer(api, firstName=name))["customerId"] for name in names}
    for keyword in ("%", "_", "\\", "a%b", "\\%", "__", "a_b", "%%"):
        assert await found(api, keyword) == sorted(by_name[name] for name in names if keyword in name), keyword


async def test_case_is_folded_beyond_ascii(api: ApiClient) -> None:
    for keyword, name in FOLDED.items():
        wanted = (await a_customer(api, firstName=name))["customerId"]
        assert await found(api, keyword) == [wanted], keyword


async def test_a_keyword_may_be_shorter_than_what_the_index_is_made_of(api: ApiClient) -> None:
    wanted = (await a_customer(api, firstName="ab日"))["customerId"]
    await a_customer(api, firstName="xyz")
    for keyword in ("a", "ab", "日"):
        assert await found(api, keyword) == [wanted], keyword


async def test_an_update_changes_what_is_found(api: ApiClient) -> None:
    customer_id = (await a_customer(api, firstName="Ada", lastName="Lovelace"))["customerId"]
    await api.patch(f"{CUSTOMERS}/{customer_id}", {"firstName": "Augusta"})
    assert await found(api, "ada") == []
    assert await found(api, "augusta") == [customer_id]
    assert await found(api, "lovelace") == [customer_id]


async def test_without_a_keyword_all_customers_are_found_in_the_order_of_their_ids(api: ApiClient) -> None:
    created = sorted([(await a_customer(api))["customerId"] for _ in range(5)])
    assert await found(api, "") == created


async def test_the_pages_together_hold_each_customer_once(api: ApiClient) -> None:
    created = sorted([(await a_customer(api, firstName="Ada"))["customerId"] for _ in range(7)])
    for keyword, limit in product(("", "ada"), (1, 2, 3, 6, 7, 8, 100)):
        read = [page async for page in pages(api, CUSTOMERS, "customers", keyword=keyword, limit=limit)]
        assert [row["customerId"] for page in read for row in page] == created
        assert [len(page) for page in read[:-1]] == [limit] * (len(read) - 1)
        assert len(read[-1]) > 0


async def test_rare_and_common_keywords_are_found_page_by_page_near_and_far(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEARCH_NEARBY_MAX", 3)
    created = [(await a_customer(api, firstName=name))["customerId"] for name in ("rare", *["Ada"] * 6, "rare", "Ada")]
    for keyword, expected in (("rare", [created[0], created[7]]), ("ada", [*created[1:7], created[8]]), ("none", [])):
        for limit in (1, 2, 3, 100):
            assert await found(api, keyword, limit=limit) == expected, (keyword, limit)


async def test_any_keyword_of_few_letters_finds_what_has_it_near_and_far(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEARCH_NEARBY_MAX", 1)
    names = ["(-) 'x' \"y\"", "{a,b}", "a\\b", "a b", "NULL", "ab日本", "🎉é", "e\u0301", "..", "xyx", "x"]
    by_name = {name: (await a_customer(api, firstName=name))["customerId"] for name in names}
    for name in names:
        for start, end in combinations(range(len(name) + 1), 2):
            keyword = name[start:end]
            expected = sorted(by_name[one] for one in names if keyword.casefold() in one.casefold())
            assert await found(api, keyword) == expected, keyword
    for keyword in ("b a", "-(", "日ab", "yy", "\\\\", "...", "é🎉"):
        assert await found(api, keyword) == [], keyword


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS, start=st.integers(0, 19), length=st.integers(1, 20))
async def test_the_pieces_of_a_part_are_among_those_of_the_whole(
    owner: asyncpg.Connection, text: str, start: int, length: int
) -> None:
    keyword = text[start : start + length] or text
    pieces = await owner.fetchval("SELECT search_pieces($1)", text)
    assert set(search_pieces(keyword)) <= set(pieces)
    assert len(pieces) == 2 * len(text) - 1


INDEXED: dict[str, tuple[str, str, list[object]]] = {
    "customers_search_text_idx": (sql.SEARCH_IDS_BY_TRIGRAMS, "search_text ~~", ["%keyword%"]),
    "customers_search_pieces_idx": (sql.SEARCH_IDS_BY_PIECES, "search_pieces(search_text) @>", ["%(-%", ["(-"]]),
}
"""Index → the statement that it serves, the condition, and what is looked for."""


@pytest.mark.parametrize("index", INDEXED)
async def test_a_rare_keyword_is_looked_up_in_an_index(
    database: Database, tenant: Tenant, assessor: Assessor, owner: asyncpg.Connection, index: str
) -> None:
    statement, condition, wanted = INDEXED[index]
    await bare_customers(assessor, tenant, [new_id() for _ in range(2000)])
    await owner.execute("UPDATE customers SET search_text = md5(customer_id::text)")
    await owner.execute("VACUUM ANALYZE customers")
    async with database.transaction(tenant.tenant_id) as connection:
        # So few rows are read through faster: whether the index could serve is the question.
        await connection.execute("SET LOCAL enable_seqscan = off")
        await connection.execute(sql.ACT_AS_SEARCHER)
        plan = await connection.fetch(f"EXPLAIN {statement}", tenant.tenant_id, new_id(), 51, *wanted)
    text = "\n".join(row[0] for row in plan)
    assert index in text
    assert condition in next(row[0] for row in plan if "Index Cond" in row[0]), text


async def test_a_page_holds_50_unless_told_and_100_at_the_most(
    api: ApiClient, assessor: Assessor, tenant: Tenant
) -> None:
    await bare_customers(assessor, tenant, [new_id() for _ in range(101)])
    assert [len(page) async for page in pages(api, CUSTOMERS, "customers")] == [50, 50, 1]
    assert [len(page) async for page in pages(api, CUSTOMERS, "customers", limit=100)] == [100, 1]


async def test_the_limit_may_change_between_pages(api: ApiClient) -> None:
    created = sorted([(await a_customer(api))["customerId"] for _ in range(5)])
    first = (await api.get(CUSTOMERS, limit=2)).body
    rest = (await api.get(CUSTOMERS, limit=3, offsetKey=first["offsetKey"])).body
    assert [row["customerId"] for row in first["customers"] + rest["customers"]] == created
    assert rest["offsetKey"] is None


async def test_customers_created_meanwhile_neither_repeat_nor_skip_any(
    api: ApiClient, assessor: Assessor, tenant: Tenant
) -> None:
    ids = sorted(new_id() for _ in range(4))
    await bare_customers(assessor, tenant, [ids[1], ids[2], ids[3]])
    first = (await api.get(CUSTOMERS, limit=2)).body
    await bare_customers(assessor, tenant, [ids[0]])
    rest = (await api.get(CUSTOMERS, offsetKey=first["offsetKey"])).body
    read = [UUID(row["customerId"]) for row in first["customers"] + rest["customers"]]
    assert read == [ids[1], ids[2], ids[3]]


def forgeries(offset_key: str) -> list[str]:
    """Keys that were not given out: each character changed in turn, cut, longer, and nonsense."""
    flipped = [
        offset_key[:at] + ("A" if offset_key[at] != "A" else "B") + offset_key[at + 1 :]
        for at in range(0, len(offset_key) - 1, 3)
    ]
    return [*flipped, offset_key[:-4], offset_key + "AAAA", "", "AAAA", "not base64!", "é", "x" * 257]


async def test_a_forged_offset_key_is_refused(api: ApiClient) -> None:
    for _ in range(3):
        await a_customer(api)
    offset_key = (await api.get(CUSTOMERS, limit=1)).body["offsetKey"]
    for forged in forgeries(offset_key):
        answered = await api.get(CUSTOMERS, limit=1, offsetKey=forged)
        shown = forged if len(forged) <= 200 else forged[:199] + "…"
        refused(answered, 400, "InvalidRequest", "offsetKey", shown)


async def test_an_offset_key_is_good_for_its_own_query_only(api: ApiClient) -> None:
    for _ in range(2):
        await a_customer(api, firstName="ada")
    offset_key = (await api.get(CUSTOMERS, limit=1, keyword="ada")).body["offsetKey"]
    queries: list[dict[str, Any]] = [{"keyword": "ad"}, {"keyword": "Ada"}, {}]
    for query in queries:
        refused(await api.get(CUSTOMERS, limit=1, offsetKey=offset_key, **query), 400, "InvalidRequest", "offsetKey")
    assert (await api.get(CUSTOMERS, limit=1, offsetKey=offset_key, keyword="ada")).status == 200


async def test_an_offset_key_is_good_for_its_own_tenant_and_listing_only(api: ApiClient, other: ApiClient) -> None:
    for client in (api, other):
        for _ in range(2):
            await a_customer(client)
    offset_key = (await api.get(CUSTOMERS, limit=1)).body["offsetKey"]
    refused(await other.get(CUSTOMERS, limit=1, offsetKey=offset_key), 400, "InvalidRequest", "offsetKey", offset_key)
    for path in (f"{CUSTOMERS}/events", f"{CUSTOMERS}/transactions", "/api/v1/admin/rules", "/api/v1/admin/segments"):
        refused(await api.get(path, offsetKey=offset_key), 400, "InvalidRequest", "offsetKey", offset_key)
