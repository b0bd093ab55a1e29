"""`eigen model`, on a real chain: the DAO registers by a vote, anyone puts rounds on record."""

from pathlib import Path
from typing import Any

import pytest
import trio

from eigen.chain.account_calls import NotPossible
from eigen.chain.decisions import OpenRun, RegisterModel
from eigen.chain.port import Contracts
from eigen.config.addresses import format_address
from eigen.crypto.identity import Identity
from eigen.node.control import ControlServer
from eigen.node.lock import HomeLock
from eigen.node.member_methods import member_methods
from eigen.node.registrations import Registrations
from eigen.protocol.cid import DAG_PB, cid_of, digest_of, raw_cid
from eigen.protocol.messages import Attempt, Payout, Proposal, RoundRecord
from eigen.protocol.types import Digest, RunId

from .conftest import COIN, Anvil, Dao, OpenChain
from .member_home import attest, decide, member_home

BASE, TUNED = RunId(b"\xa1" * 32), RunId(b"\xb2" * 32)
SPEC = Digest(b"\x5e" * 32)


def terms(of: RunId, /, **changes: object) -> dict[str, object]:
    """What `eigen propose` sends."""
    plain = {"run": of.hex(), "owner": "dao", "royalty_bps": 500, "uri": ""}
    return plain | {"parent": "", "parent_round": 0} | changes


async def test_a_model_is_put_on_record_with_where_it_comes_from(
    open_chain: OpenChain,
    anvil: Anvil,
    dao: Dao,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    someone = dao.founders[1]
    await anvil.give(someone.address)
    member = member_home(tmp_path / "home", capsys, anvil, dao.contracts, someone)
    code, out, _ = await member.says("model", "list")
    assert (code, out) == (0, "no models; propose one with: eigen model register RUN\n")
    async with open_chain() as chain:
        asked = Registrations(chain.calls)
        with pytest.raises(NotPossible, match="the ledger knows none with the id a1a1"):
            await asked.decision(terms(BASE))
        with pytest.raises(NotPossible, match="give its whole id"):
            await asked.decision(terms(BASE, run="a1"))
        opened = [OpenRun(run, SPEC, 10, 1000) for run in (BASE, TUNED)]
        await decide(chain, anvil, dao, *opened)
        first = await asked.decision(terms(BASE, uri="ipfs://about"))
        assert first == RegisterModel(BASE, dao.contracts.timelock, None, 0, 500, "ipfs://about")
        await decide(chain, anvil, dao, first)
        assert chain.decisions(Proposal((chain.call_of(first),), "")) == (first,)
        with pytest.raises(NotPossible, match="registered already"):
            await asked.decision(terms(BASE))

        told = await member.refuses("model", "record", "a1")
        assert "no round of this model is out of its challenge window" in told
        root = await attest(chain, dao, BASE, 3)
        code, out, _ = await member.says("model", "show", "a1")
        assert (code, "put round 3 there: eigen model record" in out) == (0, True)
        assert (await member("model", "record", "a1"))["round"] == 3
        assert "round 3, the last that pays, is on record" in await member.refuses(
            "model", "record", "a1"
        )

        with pytest.raises(NotPossible, match=r"4 is not on the record .* \(there: 3\)"):
            await asked.decision(terms(TUNED, parent="a1", parent_round=4))
        owner = format_address(someone.address)
        tuned = await asked.decision(terms(TUNED, parent="a1", parent_round=3, owner=owner))
        await decide(chain, anvil, dao, tuned)
        assert chain.decisions(Proposal((chain.call_of(tuned),), "")) == (tuned,)

    base, child = await member("model", "list")
    assert (base["id"], base["owned_by"], base["uri"]) == (BASE.hex(), "the DAO", "ipfs://about")
    assert base["rounds"][0]["payout_root"] == root.payout_root.hex()
    assert cid_of(DAG_PB, root.checkpoint) in base["rounds"][0]["cids"]
    assert (child["owner"], child["owned_by"]) == (owner, "this account")
    assert (child["lineage"], child["start"]) == ([BASE.hex()], root.checkpoint.hex())
    assert child["royalty_percent"] == 5
    code, out, _ = await member.says("model", "show", "b2")
    assert code == 0
    assert f"from        {BASE.hex()}" in out
    assert "no records of a1a1a1a1a1a1 are at hand" in out
    assert "0 models match 'ff'" in await member.refuses("model", "show", "ff")


async def test_a_dao_without_a_registry_has_no_models(
    anvil: Anvil, dao: Dao, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four = Contracts(
        dao.contracts.token, dao.contracts.governor, dao.contracts.timelock, dao.contracts.ledger
    )
    member = member_home(tmp_path / "home", capsys, anvil, four, dao.founders[0])
    assert "names no registry contract" in await member.refuses("model", "list")


async def test_a_registration_is_proposed_by_the_running_node_which_tells_who_contributed(
    open_chain: OpenChain,
    anvil: Anvil,
    dao: Dao,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    member = member_home(tmp_path / "h", capsys, anvil, dao.contracts, dao.founders[0])
    worker = Identity.generate().address
    checkpoint = raw_cid(b"a checkpoint")
    record = RoundRecord(
        Attempt(BASE, 3, 0),
        previous=Digest(bytes(32)),
        base=checkpoint,
        checkpoint=checkpoint,
        left=(),
        holders=(),
        trainers=(),
        validators=(),
        payouts=(Payout(worker, 5 * COIN // 2),),
    )
    async with open_chain() as chain, trio.open_nursery() as nursery:
        await decide(chain, anvil, dao, OpenRun(BASE, SPEC, 10, 1000))

        async def propose(params: dict[str, Any]) -> dict[str, Any]:
            decision = await Registrations(chain.calls).decision(params)
            await decide(chain, anvil, dao, decision)
            return {"proposal": "123456789012345", "does": [str(params["description"])]}

        methods = {"propose": propose} | member_methods(
            chain.calls, lambda run: {3: record} if run == BASE else {}
        )
        with HomeLock(member.folder / "node.lock"):
            await nursery.start(ControlServer(member.folder / "control.sock", methods).run)
            how = ("model", "register", BASE.hex(), "--royalty-percent")
            assert "two decimals" in await member.refuses(*how, "0.075")
            assert "give both" in await member.refuses(*how, 1, "--parent", "ff")
            code, out, err = await member.says(*how, "2.5", "--description", "ours")
            assert code == 0, err
            assert "does     ours\nvote with: eigen vote 123456789012 --for" in out

            await attest(chain, dao, BASE, 3, checkpoint=digest_of(checkpoint))
            await member("model", "record", "a1")
            [model] = await member("model", "list")
            assert model["royalty_percent"] == 2.5
            assert model["rounds"][0]["cids"] == [checkpoint]
            code, out, _ = await member.says("model", "show", "a1")
            assert f"trained by  {BASE.hex()[:12]} through round 3" in out
            assert f"{format_address(worker)}  2.5 tokens" in out
        nursery.cancel_scope.cancel()
