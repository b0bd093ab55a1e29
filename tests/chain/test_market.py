"""`eigen market`, on a real chain: what is agreed to is paid, and nothing else."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from eigen.chain.bindings import MARKET, REGISTRY, TOKEN
from eigen.chain.decisions import OpenRun, RegisterModel
from eigen.config.addresses import format_address
from eigen.node.exit_codes import ExitCode
from eigen.protocol.types import Digest, RunId

from .conftest import COIN, Anvil, Dao, OpenChain
from .member_home import decide, member_home, with_market

MODEL, OTHER = RunId(b"\xa1" * 32), RunId(b"\xb2" * 32)


async def test_models_and_licences_are_sold_for_what_was_agreed(
    open_chain: OpenChain,
    anvil: Anvil,
    dao: Dao,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seller, buyer = dao.founders[1:3]
    for identity in (seller, buyer):
        await anvil.give(identity.address)
    contracts = await with_market(anvil, dao, seller)
    assert contracts.market
    sells = member_home(tmp_path / "s", capsys, anvil, contracts, seller)
    buys = member_home(tmp_path / "b", capsys, anvil, contracts, buyer)
    async with open_chain(contracts=contracts) as chain:
        runs = [OpenRun(run, Digest(b"\x5e" * 32), 10, 1000) for run in (MODEL, OTHER)]
        await decide(chain, anvil, dao, *runs)
        mine = RegisterModel(MODEL, seller.address, None, 0, 1000, "")
        await decide(
            chain, anvil, dao, mine, RegisterModel(OTHER, dao.contracts.timelock, None, 0, 0, "")
        )
        vault = (
            await chain.calls.read(
                dao.contracts.registry, REGISTRY, "models", int.from_bytes(MODEL)
            )
        )[3]

        # what cannot be sold
        assert "the DAO owns it" in await sells.refuses("market", "sell", "b2", "--price", 1)
        told = await buys.refuses("market", "sell", "a1", "--price", 1)
        assert f"does not own it: 0x{seller.address.hex()} does" in told
        told = await sells.refuses("market", "sell", "a1", "--price", 1, "--token", "coin")
        assert "the wrapped coin" in told
        here = format_address(contracts.governor)
        told = await sells.refuses("market", "sell", "a1", "--price", 1, "--token", here)
        assert "is no token" in told
        assert "18 decimals" in await sells.refuses("market", "sell", "a1", "--price", "1e-19")

        # a model
        offer = (await sells("market", "sell", "a1", "--price", "20.5"))["offer"]
        assert (offer["id"], offer["price"], offer["symbol"]) == (1, "20.5", "TEST")
        assert "is your own" in await sells.refuses("market", "buy", 1, "--price", "20.5")
        code, _, err = await buys.says("market", "buy", 1)
        assert (code, "agree with --price 20.5" in err) == (ExitCode.USAGE, True)
        code, _, err = await buys.says("market", "buy", 1, "--price", 20)
        assert (code, "costs 20.5 TEST, not 20; nothing was spent" in err) == (1, True)
        listed = await buys("market", "list")
        assert [one["id"] for one in listed["offers"]] == [1]
        done = await buys("market", "buy", 1, "--price", "20.5")
        assert done["offer"]["token"] == MODEL.hex()
        assert await chain.balance(buyer.address) == 79 * COIN + COIN // 2
        assert await chain.balance(vault) == 205 * COIN // 100  # a tenth, to contributors
        assert await chain.balance(seller.address) == 100 * COIN + 1845 * COIN // 100
        left = await chain.calls.read(
            contracts.token, TOKEN, "allowance", buyer.address, contracts.market
        )
        assert left == 0
        code, _, err = await buys.says("market", "buy", 1, "--price", "20.5")
        assert (code, "there is no offer 1: it was taken" in err) == (1, True)
        assert (await buys("model", "show", "a1"))["owned_by"] == "this account"

        # licences, by the new owner
        text = tmp_path / "licence.txt"
        text.write_text("for research")
        lets = ("market", "sell", "a1", "--price", 60, "--licence", text, "--days", 30)
        licence = (await buys(*lets))["offer"]
        terms = hashlib.sha256(b"for research").digest()
        assert (licence["terms"], licence["duration_s"]) == (terms.hex(), 30 * 86_400)
        bought = "market", "buy", 2, "--price", 60
        await sells(*bought)
        query = contracts.registry, int.from_bytes(MODEL), terms, seller.address
        until_s = await chain.calls.read(contracts.market, MARKET, "licensedUntil", *query)
        assert abs(until_s - (await chain.time_s() + 30 * 86_400)) < 10
        code, _, err = await sells.says(*bought)  # 118.45 less 60 are left
        assert code == ExitCode.FAILED
        assert "not enough TEST: 60 are needed, 58.45 are there, 1.55 are missing" in err

        # withdrawn, and void
        assert "who alone may withdraw" in await sells.refuses("market", "cancel", 2)
        await buys("market", "cancel", 2)
        assert (await buys("market", "list"))["offers"] == []
        await buys("market", "sell", "a1", "--price", 0)
        token = int.from_bytes(MODEL)
        away = REGISTRY.calldata("transferFrom", buyer.address, dao.founders[3].address, token)
        async with open_chain(buyer) as theirs:
            assert dao.contracts.registry
            await theirs._write("away", dao.contracts.registry, away)
        code, out, _ = await sells.says("market", "list")
        assert (code, "void: the seller does not own it" in out) == (0, True)
        code, _, err = await sells.says("market", "buy", 3, "--price", 0)
        assert (code, "does not own the token any more" in err) == (1, True)


async def test_a_market_that_is_not_ours_is_given_nothing(
    anvil: Anvil, dao: Dao, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = member_home(tmp_path / "home", capsys, anvil, dao.contracts, dao.founders[1])
    assert "names no market contract" in await member.refuses("market", "list")
    false = replace(dao.contracts, escrow=None, market=dao.contracts.escrow)
    member = member_home(tmp_path / "other", capsys, anvil, false, dao.founders[1])
    assert "is not our ModelMarket" in await member.refuses("market", "list")
