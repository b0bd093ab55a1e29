"""`eigen revenue`, on a real chain."""

from pathlib import Path

import pytest

from eigen.chain.bindings import TOKEN

from .conftest import COIN, Anvil, Dao, OpenChain
from .member_home import member_home

WEEK_S = 7 * 86_400


async def test_who_stakes_shares_in_what_comes_in(
    open_chain: OpenChain,
    anvil: Anvil,
    dao: Dao,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two = dao.founders[1:3]
    homes = []
    for identity in (one, two):
        await anvil.give(identity.address)
        folder = tmp_path / identity.address.hex()[:4]
        homes.append(member_home(folder, capsys, anvil, dao.contracts, identity))
    first, second = homes

    assert "there is nobody to share with" in await first.refuses("revenue", "deposit", 1)
    told = await first.refuses("revenue", "stake", "100.5")
    assert "not enough TEST: 100.5 are needed, 100 are there, 0.5 are missing" in told
    for wrong in ("0", "-1", "many", "1e-19", "nan"):
        assert "amount: " in await first.refuses("revenue", "stake", "--", wrong)

    assert (await first("revenue", "stake", 24))["amount"] == "24"
    await first("revenue", "stake", 24)  # once it landed, the same command is a new one
    await second("revenue", "stake", 16)
    async with open_chain() as chain:
        votes = await chain.calls.read(dao.contracts.token, TOKEN, "getVotes", one.address)
        assert votes == 100 * COIN  # what is staked votes through its keeper
        assert await chain.balance(one.address) == 52 * COIN

    assert (await second("revenue", "deposit", "8"))["symbol"] == "TEST"
    now = await first("revenue", "show")
    assert (now["total_staked"], now["staked"], now["owed"]) == ("64", "48", "6")
    code, out, _ = await first.says("revenue", "claim")
    assert (code, out.startswith("got 6 TEST (0x")) == (0, True)
    assert "no revenue to its credit" in await first.refuses("revenue", "claim")

    assert "not so much is staked: 48 TEST" in await first.refuses("revenue", "unstake", 49)
    assert "nothing was unstaked" in await first.refuses("revenue", "withdraw")
    left = await first("revenue", "unstake", 40)
    assert left["amount"] == "40"
    told = await first.refuses("revenue", "withdraw")
    assert "can be withdrawn in 604" in told
    code, out, _ = await first.says("revenue", "show")
    assert (code, "leaving    40 TEST, to be withdrawn from 20" in out) == (0, True)
    await anvil.sleep(WEEK_S)
    assert (await first("revenue", "withdraw"))["amount"] == "40"
    async with open_chain() as chain:
        assert await chain.balance(one.address) == 98 * COIN
