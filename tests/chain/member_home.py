"""A member's home on the test's chain, and `eigen` run in it without a daemon."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from eigen.chain.artifacts import load
from eigen.chain.decisions import Decision
from eigen.chain.evm import EvmChain
from eigen.chain.foundry import create
from eigen.chain.outbox import Outbox
from eigen.chain.port import Contracts, Receipt, RoundRoot
from eigen.config.network import NetworkFile, Parameters, dump_network
from eigen.crypto.identity import Identity
from eigen.crypto.keystore import create_key_file
from eigen.node import cli
from eigen.node.networks import addresses_of
from eigen.protocol.messages import Proposal
from eigen.protocol.types import Address, Digest, RunId

from .conftest import CHAIN_ID, QUICK, Anvil, Dao, ballot, dao_spec


@dataclass(frozen=True)
class MemberHome:
    """`await member("model", "list")` is `eigen model list --json`, read."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    identity: Identity

    async def __call__(self, *arguments: object) -> Any:
        code, out, err = await self.says(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    async def says(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        return await trio.to_thread.run_sync(self._run, arguments)

    async def refuses(self, *arguments: object) -> str:
        """The line that tells why."""
        code, out, err = await self.says(*arguments)
        assert code not in (0, None), out
        assert "internal error" not in err
        assert "Traceback" not in err
        *_, why = err.splitlines()
        assert why.startswith("eigen: ")
        return why

    def _run(self, arguments: tuple[object, ...]) -> tuple[int, str, str]:
        self.capsys.readouterr()
        options = ("--home", str(self.folder), "--set", "chain.poll_s=0.05")
        code = cli.main([*options, *map(str, arguments)])
        return (code, *self.capsys.readouterr())


def member_home(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    anvil: Anvil,
    contracts: Contracts,
    identity: Identity,
) -> MemberHome:
    """A home with this key, that has joined the DAO's network."""
    create_key_file(folder / "keys" / "node.key", identity.secret)
    network = NetworkFile(
        name="testnet",
        chain_id=CHAIN_ID,
        rpc_urls=(anvil.url,),
        contracts=addresses_of(contracts),
        parameters=Parameters(confirmations=0),
    )
    (folder / "network.toml").write_text(dump_network(network))
    return MemberHome(folder, capsys, identity)


async def decide(chain: EvmChain, anvil: Anvil, dao: Dao, *decided: Decision) -> Receipt:
    """A proposal all the way to its execution."""
    proposal = Proposal(tuple(map(chain.call_of, decided)), "as agreed")
    await chain.propose(proposal)
    await anvil.sleep(2)
    id_ = chain.proposal_id(proposal)
    await chain.relay_ballots([await ballot(chain, voter, id_) for voter in dao.founders])
    spec = dao_spec(dao.founders, dao.validators)
    await anvil.sleep(spec.voting_period_s)
    await chain.queue(proposal)
    await anvil.sleep(spec.timelock_delay_s)
    return await chain.execute(proposal)


async def attest(
    chain: EvmChain, dao: Dao, run: RunId, number: int, checkpoint: Digest | None = None
) -> RoundRoot:
    """A round that a quorum attests; nobody looks into its trees here."""
    made, record, payouts = (Digest(bytes([kind + number]) * 32) for kind in (0, 100, 200))
    root = RoundRoot(run, number, checkpoint or made, record, payouts, 0)
    signers = dao.validators[:2]
    await chain.post_round(root, [s.sign(chain.round_digest(root)) for s in signers])
    return root


async def with_market(anvil: Anvil, dao: Dao, identity: Identity) -> Contracts:
    """The DAO's contracts, and a market on its chain."""
    rpc = anvil.rpc()
    async with Outbox(rpc, identity.secret, None, chain_id=CHAIN_ID, settings=QUICK) as outbox:
        market: Address = await create(rpc, outbox, "market", load("ModelMarket").bytecode)
    await rpc.aclose()
    return replace(dao.contracts, market=market)
