"""Endpoints that contradict each other: who is believed, and what is said of it."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigen.chain.agreement import LAG_BLOCKS_MAX, common_block, judged
from eigen.chain.port import ChainUnreachable
from eigen.chain.provider import TrioHTTPProvider

from .conftest import Anvil
from .test_provider import Endpoint, asked, endpoints, provider, result

names = st.sampled_from("abcdefg")


@given(st.dictionaries(names, st.integers(0, 10**6), min_size=1), st.integers(0, 1000))
def test_the_block_compared_is_there_on_all_that_do_not_lag(
    heads: dict[str, int], depth: int
) -> None:
    block = common_block(heads, depth)
    lagging = judged(heads, block, {}).lagging
    assert block >= 0
    assert all(block <= head for name, head in heads.items() if name not in lagging)
    assert len(lagging) <= len(heads) // 2


@given(st.dictionaries(names, st.sampled_from(["0x1", "0x2", "0x3"]), min_size=2))
def test_only_a_majority_is_believed(hashes: dict[str, str]) -> None:
    doubted = judged(dict.fromkeys(hashes, 9), 9, hashes).doubted
    believed = {told for name, told in hashes.items() if name not in doubted}
    if believed:
        assert len(believed) == 1
        assert 2 * (len(hashes) - len(doubted)) > len(hashes)
    else:
        assert all(2 * list(hashes.values()).count(told) <= len(hashes) for told in hashes.values())


def block(hash_: str) -> Any:
    return lambda _: result({"hash": hash_})


def comparing(*served: Endpoint, **options: Any) -> TrioHTTPProvider:
    return provider(*served, compare_depth=2, **options)


def reads(endpoint: Endpoint) -> int:
    """Requests besides those of the comparison: the first head is one of its own."""
    return endpoint.asked.count("eth_gasPrice")


async def test_a_minority_is_reported_and_not_asked_until_it_agrees_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with endpoints(3) as served, comparing(*served, compared_every_s=0) as source:
        for endpoint, name in zip(served, ("0xbad", "0xgood", "0xgood"), strict=True):
            endpoint.answers["eth_getBlockByNumber"] = block(name)
        assert await asked(source, "eth_gasPrice") == "0x2a"  # type: ignore[arg-type]
        assert [reads(endpoint) for endpoint in served] == [0, 1, 0]
        assert "is not believed: block 40 has the hash 0xbad there, 0xgood elsewhere" in caplog.text
        assert "secret-key" not in caplog.text
        served[0].answers["eth_getBlockByNumber"] = block("0xgood")
        await asked(source, "eth_gasPrice")  # type: ignore[arg-type]
        assert [reads(endpoint) for endpoint in served] == [1, 1, 0]
        assert "is believed again" in caplog.text


async def test_without_a_majority_none_is_believed() -> None:
    async with endpoints(2) as served, comparing(*served) as source:
        served[0].answers["eth_getBlockByNumber"] = block("0xone")
        served[1].answers["eth_getBlockByNumber"] = block("0xtwo")
        with pytest.raises(ChainUnreachable, match=r"contradict each other.*or add another"):
            await asked(source)


async def test_an_endpoint_that_lags_is_asked_last() -> None:
    async with endpoints(3) as served, comparing(*served) as source:
        for endpoint in served:
            endpoint.answers["eth_getBlockByNumber"] = block("0xgood")
            endpoint.answers["eth_blockNumber"] = lambda _: result(hex(5 + 2 * LAG_BLOCKS_MAX))
        served[0].answers["eth_blockNumber"] = lambda _: result("0x5")
        served[0].answers["eth_getBlockByNumber"] = lambda _: result(None)
        await asked(source, "eth_gasPrice")  # type: ignore[arg-type]
        assert sum(reads(endpoint) for endpoint in served) == 1


async def test_one_that_is_down_is_not_judged_and_costs_no_answer() -> None:
    async with endpoints(2) as served:
        served[0].answers["eth_getBlockByNumber"] = block("0xgood")
        urls = [served[0].url, "http://127.0.0.1:1"]
        async with TrioHTTPProvider(urls, chain_id=31337, compare_depth=0) as source:
            assert await asked(source) == "0x2a"


async def test_two_real_chains_of_one_id_are_told_apart(anvil: Anvil, start_anvil: Any) -> None:
    others = [start_anvil("--timestamp", "1700000000") for _ in range(2)]
    urls = [anvil.url, *(other.url for other in others)]
    async with TrioHTTPProvider(urls, chain_id=31337, compare_depth=0) as source:
        await anvil.mine(3)
        found = (await source.make_request("eth_getBlockByNumber", ["0x0", False]))["result"]  # type: ignore[arg-type]
        assert int(found["timestamp"], 16) == 1_700_000_000
