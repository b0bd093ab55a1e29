"""`eigen validator bond` and back, on a real chain."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from eigen.chain.bindings import LEDGER
from eigen.chain.decisions import OpenRun, OtherCall
from eigen.chain.port import RoundRoot
from eigen.config.addresses import format_address
from eigen.config.network import load_network
from eigen.node.control import ControlServer
from eigen.node.dao_view import dao_view
from eigen.node.lock import HomeLock
from eigen.node.member_methods import member_methods
from eigen.protocol.types import Digest, RunId

from .conftest import COIN, Anvil, Dao, OpenChain, attestation
from .member_home import attest, decide, member_home

DAY_S = 86_400


def two_of(root: RoundRoot) -> tuple[RoundRoot, RoundRoot]:
    return root, replace(root, checkpoint=Digest(b"\x77" * 32))


async def test_bonds_are_made_and_come_back_and_are_lost_by_equivocation(
    open_chain: OpenChain,
    anvil: Anvil,
    dao: Dao,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    validator, founder = dao.validators[0], dao.founders[1]
    for identity in (validator, founder):
        await anvil.give(identity.address)
    mine = member_home(tmp_path / "v", capsys, anvil, dao.contracts, validator)
    other = member_home(tmp_path / "f", capsys, anvil, dao.contracts, founder)
    me = format_address(validator.address)

    told = await mine.refuses("validator", "bond", 1)
    assert "not enough TEST: 1 are needed, 0 are there, 1 are missing" in told
    assert "--for" in await mine.refuses("validator", "bond", 1, "--for", me[:-1] + "z")
    bonded = await other("validator", "bond", "7.5", "--for", me)
    assert (bonded["validator"], bonded["bond"]) == (me, "7.5")
    async with open_chain() as chain:
        run = RunId(b"\xa1" * 32)
        terms = LEDGER.calldata("setTerms", (0, DAY_S, 5 * COIN, bytes(20)))
        asked = OtherCall(dao.contracts.ledger, 0, terms)
        await decide(chain, anvil, dao, asked, OpenRun(run, Digest(b"\x5e" * 32), 10, 1))

        assert "not so much is bonded: 7.5" in await mine.refuses("validator", "unbond", 8)
        told = await mine.refuses("validator", "unbond", 3)
        assert "the DAO asks for 5 TEST: with less this account is no validator" in told
        left = await mine("validator", "unbond", "2.5")
        assert (left["bond"], left["leaving"]) == ("5", "2.5")
        assert "can be withdrawn in 8" in await mine.refuses("validator", "withdraw")
        await anvil.sleep(DAY_S)
        code, out, _ = await mine.says("validator", "withdraw")
        assert (code, out.splitlines()[:2]) == (
            0,
            ["withdrew 2.5 TEST", f"{me}  bond 5 TEST"],
        )
        assert await chain.balance(validator.address) == 25 * COIN // 10

        root = await attest(chain, dao, run, 3)
        said = [attestation(chain, r, validator) for r in two_of(root)]
        await chain.prove_equivocation(*said)
        assert validator.address not in (await chain.validators())[0]
    assert "was slashed" in await mine.refuses("validator", "bond", 1)
    assert "nothing was unbonded" in await mine.refuses("validator", "withdraw")
    leaver = dao.validators[1]
    await anvil.give(leaver.address)
    leaves = member_home(tmp_path / "l", capsys, anvil, dao.contracts, leaver)
    await other("validator", "bond", 5, "--for", format_address(leaver.address))
    await leaves("validator", "unbond", 1, "--leave")
    async with open_chain() as chain:
        assert (await chain.validators())[0] == {dao.validators[2].address}


async def test_a_running_node_makes_the_same_calls(
    open_chain: OpenChain,
    anvil: Anvil,
    dao: Dao,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    founder, validator = dao.founders[1], dao.validators[0]
    await anvil.give(founder.address)
    home = member_home(tmp_path / "h", capsys, anvil, dao.contracts, founder)
    network = load_network(home.folder / "network.toml")
    async with open_chain(founder) as chain, trio.open_nursery() as nursery:

        async def facts(_: object) -> object:
            return await dao_view(network, chain, founder.address)

        methods = {"dao": facts} | member_methods(chain.calls)
        with HomeLock(home.folder / "node.lock"):
            await nursery.start(ControlServer(home.folder / "control.sock", methods).run)
            told = await home.refuses("validator", "bond", 101)
            assert "not enough TEST: 101 are needed, 100 are there, 1 are missing" in told
            await home("validator", "bond", 2, "--for", format_address(validator.address))
            shown = await home("dao", "show")
            assert (shown["bonds"]["required"], shown["bonds"]["mine"]["bond"]) == ("0", "0")
            code, out, err = await home.says("dao", "show")
            assert code == 0, err
            assert f"{format_address(validator.address)}  bond 2 TEST" in out
            assert "each has bonded 0 TEST when named" in out
        nursery.cancel_scope.cancel()
    assert not (home.folder / "outbox.sqlite3").exists()  # the node's chain was used
