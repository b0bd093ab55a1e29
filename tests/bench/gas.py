"""Measures what the contracts cost, in gas of whole transactions on an Anvil (Prague).

`python tests/bench/gas.py --json` prints every figure as one JSON object; `--only root,vote` some
of the rows in `ROWS`. Gas does not depend on the machine or its load: figures are the receipts'.

`root_gas_k3`: a later round root with three signatures; `_window`: with a challenge window, the
worst of ten. `claim_gas_repeat`: a later claim of one account among 64; `_n1000`: among 1,000.
`multiclaim_gas_each`: a later claim in a batch of 32, among 1,000 accounts. `vote_by_sig_gas`:
`castVoteBySig`, not the first of its proposal. `naive_over_merkle_n1000`: ten rounds paid to 1,000
contributors by a transaction each (a plain `mint` by a trusted account, nothing attested), over ten
roots and one claim each; `_relayed`: with the claims in batches.
"""

import argparse
import json
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from eigen.chain.abi import Abi
from eigen.chain.bindings import GOVERNOR, LEDGER, TOKEN, root_fields
from eigen.chain.deploy import DaoSpec, deploy_dao
from eigen.chain.devnet.anvil import AnvilConfig, run_anvil
from eigen.chain.outbox import OutboxSettings
from eigen.chain.port import DaoContracts, RoundRoot
from eigen.chain.provider import TrioHTTPProvider
from eigen.crypto import statements
from eigen.crypto.hashing import keccak256
from eigen.crypto.identity import Identity
from eigen.crypto.merkle import PayoutTree
from eigen.protocol.types import Address, Digest, RunId

COIN = 10**18
VALIDATORS, QUORUM = 5, 3
SMALL, LARGE = 64, 1000
BATCH = 32
REWARD = 10**6 * COIN
SPEC = Digest(keccak256(b"spec"))
WINDOW_S = 86_400
GAS = 16_000_000


@dataclass
class Bench:
    """A DAO on an Anvil of its own, whose accounts send without keys."""

    provider: TrioHTTPProvider
    chain_id: int
    contracts: DaoContracts
    validators: Sequence[Identity]
    voters: Sequence[Identity]
    sender: str

    async def ask(self, method: str, *params: Any) -> Any:
        reply = await self.provider.make_request(method, list(params))
        if "error" in reply:
            raise SystemExit(f"gas: {method} failed: {reply['error']}")
        return reply["result"]

    async def send(self, to: Address, data: bytes, sender: str | None = None) -> int:
        """Gas that the transaction used; it must succeed."""
        call = {"from": sender or self.sender, "to": "0x" + to.hex(), "data": "0x" + data.hex()}
        tx = await self.ask("eth_sendTransaction", call | {"gas": hex(GAS)})
        with trio.fail_after(10):  # Anvil answers before it has mined
            while (receipt := await self.ask("eth_getTransactionReceipt", tx)) is None:  # noqa: ASYNC110
                await trio.sleep(0.002)
        if int(receipt["status"], 16) != 1:
            reason = await self.provider.make_request("eth_call", [call, "latest"])  # type: ignore[arg-type]
            raise SystemExit(f"gas: a transaction was reverted: {reason}")
        return int(receipt["gasUsed"], 16)

    async def send_as(self, account: Address, to: Address, data: bytes) -> int:
        """A transaction of a contract of ours, the timelock or the ledger."""
        sender = "0x" + account.hex()
        await self.ask("anvil_impersonateAccount", sender)
        await self.ask("anvil_setBalance", sender, hex(COIN))
        return await self.send(to, data, sender)

    async def call(self, to: Address, abi: Abi, function: str, *args: object) -> Any:
        data = "0x" + abi.calldata(function, *args).hex()
        found = await self.ask("eth_call", {"to": "0x" + to.hex(), "data": data}, "latest")
        return abi.results(function, bytes.fromhex(found[2:]))[0]

    async def sleep(self, seconds: int) -> None:
        await self.ask("evm_increaseTime", seconds)
        await self.ask("evm_mine")


class Run:
    """A stream whose contributors earn with every round."""

    def __init__(self, bench: Bench, name: str, contributors: int) -> None:
        self.bench = bench
        self.run = RunId(keccak256(name.encode()))
        self.accounts = [
            Address(keccak256(f"{name} {i}".encode())[:20]) for i in range(contributors)
        ]
        self.round = 0
        self.tree = PayoutTree({})

    async def open(self) -> int:
        contracts = self.bench.contracts
        data = LEDGER.calldata("openRun", self.run, SPEC, 1000, REWARD)
        return await self.bench.send_as(contracts.timelock, contracts.ledger, data)

    async def post(self) -> int:
        """The next round: each account earns, three validators sign, somebody posts."""
        self.round += 1
        earned = {account: self._earned(i) for i, account in enumerate(self.accounts)}
        self.tree = PayoutTree(earned)
        marks = (Digest(keccak256(f"{kind} {self.round}".encode())) for kind in ("state", "record"))
        root = RoundRoot(self.run, self.round, *marks, self.tree.root, self.tree.total)
        ledger = self.bench.contracts.ledger
        digest = root.signed_digest(statements.ledger_domain(self.bench.chain_id, ledger))
        signed = [validator.sign(digest) for validator in self.bench.validators[:QUORUM]]
        await self.bench.sleep(60)
        return await self.bench.send(
            ledger, LEDGER.calldata("postRound", root_fields(root), signed)
        )

    async def claim(self, which: int) -> int:
        account = self.accounts[which]
        proof = self.tree.proof(account)
        data = LEDGER.calldata("claim", self.run, account, self.tree.cumulative[account], proof)
        return await self.bench.send(self.bench.contracts.ledger, data)

    async def claim_many(self, first: int, count: int) -> int:
        accounts = self.accounts[first : first + count]
        earnings = [(a, self.tree.cumulative[a], self.tree.proof(a)) for a in accounts]
        data = LEDGER.calldata("multiClaim", self.run, earnings)
        return await self.bench.send(self.bench.contracts.ledger, data)

    def _earned(self, index: int) -> int:
        return self.round * (COIN + 123_456_789_012_345_678 * (index % 7) + index)


async def root(bench: Bench) -> dict[str, int]:
    """Later roots, without and with a window."""
    run = Run(bench, "roots", LARGE)
    await run.open()
    await run.post()
    later = await run.post()
    with_window = 0
    await _set_window(bench, WINDOW_S)
    for step in range(20):
        if step % 3 == 0:
            await bench.sleep(WINDOW_S // 2)
        used = await run.post()
        with_window = max(with_window, used) if step >= 10 else 0  # by then all places are in use
    await _set_window(bench, 0)
    return {"root_gas_k3": later, "root_gas_k3_window": with_window}


async def claim(bench: Bench) -> dict[str, int]:
    """Repeated claims of one account."""
    figures = {}
    for name, contributors in (("claim_gas_repeat", SMALL), ("claim_gas_repeat_n1000", LARGE)):
        run = Run(bench, name, contributors)
        await run.open()
        await run.post()
        first = await run.claim(contributors // 2)
        await run.post()
        figures[name] = await run.claim(contributors // 2)
    return figures | {"claim_gas_first": first}


async def multiclaim(bench: Bench) -> dict[str, int]:
    """Batches of claims."""
    run = Run(bench, "batches", LARGE)
    await run.open()
    await run.post()
    first = await run.claim_many(100, BATCH)
    await run.post()
    later = await run.claim_many(100, BATCH)
    return {"multiclaim_gas_each": later // BATCH, "multiclaim_gas_each_first": first // BATCH}


async def vote(bench: Bench) -> dict[str, int]:
    """Ballots by signature, one a transaction and in a batch."""
    contracts, governor = bench.contracts, bench.contracts.governor
    calls: tuple[object, ...] = (
        [contracts.ledger],
        [0],
        [LEDGER.calldata("openRun", SPEC, SPEC, 10, COIN)],
    )
    text = "a run"
    proposer = bench.voters[0].address
    await bench.sleep(2)
    await bench.send_as(proposer, governor, GOVERNOR.calldata("propose", *calls, text))
    proposal = await bench.call(
        governor, GOVERNOR, "hashProposal", *calls, keccak256(text.encode())
    )
    await bench.sleep(2)
    domain = statements.governor_domain(bench.chain_id, governor)

    def signed(voter: Identity) -> bytes:
        digest = statements.ballot_digest(
            domain, proposal=proposal, support=1, voter=voter.address, nonce=0
        )
        return voter.sign(digest)

    used = []
    for voter in bench.voters[:3]:
        ballot = (proposal, 1, voter.address, signed(voter))
        used.append(await bench.send(governor, GOVERNOR.calldata("castVoteBySig", *ballot)))
    rest = bench.voters[3:]
    batch = (proposal, [1] * len(rest), [v.address for v in rest], [signed(v) for v in rest])
    together = await bench.send(governor, GOVERNOR.calldata("castVotesBySig", *batch))
    return {
        "vote_by_sig_gas": max(used[1:]),
        "vote_by_sig_gas_first": used[0],
        "vote_by_sig_gas_batch_each": together // len(rest),
    }


async def naive(bench: Bench) -> dict[str, float]:
    """Merkle pay against a transaction a contributor and round."""
    contracts = bench.contracts
    account = Address(keccak256(b"paid naively")[:20])
    mint = TOKEN.calldata("mint", account, COIN + 12_345)
    for _ in range(2):
        await bench.sleep(60)
        each = await bench.send_as(contracts.ledger, contracts.token, mint)
    roots = (await root(bench))["root_gas_k3"]
    claimed = (await claim(bench))["claim_gas_repeat_n1000"]
    batched = (await multiclaim(bench))["multiclaim_gas_each"]
    return {
        "naive_gas_each": each,
        "naive_over_merkle_n1000": _times(10 * each, 10 * roots / LARGE + claimed),
        "naive_over_merkle_n1000_relayed": _times(10 * each, 10 * roots / LARGE + batched),
    }


Row = Callable[[Bench], Awaitable[dict[str, Any]]]
ROWS: dict[str, Row] = {
    "root": root,
    "claim": claim,
    "multiclaim": multiclaim,
    "vote": vote,
    "naive": naive,
}


def _times(dear: float, cheap: float) -> float:
    return round(dear / cheap, 1)


async def _set_window(bench: Bench, window_s: int) -> None:
    terms = (window_s, WINDOW_S, 0, Address(bytes(20)))
    data = LEDGER.calldata("setTerms", terms)
    await bench.send_as(bench.contracts.timelock, bench.contracts.ledger, data)


async def measure(rows: Sequence[str]) -> dict[str, Any]:
    """Each row on a DAO of its own, so that none warms another's storage."""
    figures: dict[str, Any] = {}
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            async with trio.open_nursery() as nursery:
                config = AnvilConfig(Path(folder) / "anvil.log", block_time_s=None, accounts=1)
                anvil = await nursery.start(run_anvil, config)
                async with TrioHTTPProvider([anvil.url], chain_id=anvil.chain_id) as provider:
                    figures |= await ROWS[row](await _found(provider, anvil))
                nursery.cancel_scope.cancel()
    return figures


async def _found(provider: TrioHTTPProvider, anvil: Any) -> Bench:
    validators = sorted((Identity.generate() for _ in range(VALIDATORS)), key=lambda v: v.address)
    voters = [Identity.generate() for _ in range(23)]
    spec = DaoSpec(
        token_name="Bench",
        token_symbol="BENCH",
        founders=[(voter.address, 100 * COIN) for voter in voters],
        validators=[validator.address for validator in validators],
        quorum=QUORUM,
        voting_delay_s=1,
        voting_period_s=3600,
        timelock_delay_s=0,
        proposal_threshold=COIN,
        quorum_percent=10,
    )
    payer = anvil.accounts[0]
    contracts = await deploy_dao(provider, payer.secret, spec, settings=OutboxSettings(poll_s=0.02))
    bench = Bench(
        provider, anvil.chain_id, contracts, validators, voters, "0x" + payer.address.hex()
    )
    await bench.ask("anvil_impersonateAccount", bench.sender)
    return bench


def main() -> None:
    """Print the figures of the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds anyway")
    parser.add_argument("--only", default=",".join(ROWS), help="rows, with commas between")
    options = parser.parse_args()
    unknown = set(options.only.split(",")) - set(ROWS)
    if unknown:
        parser.error(f"--only: there are {', '.join(ROWS)}, not {', '.join(sorted(unknown))}")
    figures = trio.run(measure, options.only.split(","))
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:34} {value:>12,}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
