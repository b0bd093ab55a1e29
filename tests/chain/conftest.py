"""A real Anvil for each test, with a DAO on it where a test asks for one."""

import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from web3.providers.async_base import AsyncBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from eigen.chain.bindings import REVERTS
from eigen.chain.calls import call_of
from eigen.chain.decisions import OpenRun
from eigen.chain.deploy import DaoSpec, deploy_dao
from eigen.chain.devnet.binary import find_anvil
from eigen.chain.evm import EvmChain
from eigen.chain.outbox import Outbox, OutboxSettings
from eigen.chain.port import Ballot, Contracts, RoundRoot, Support
from eigen.chain.provider import TrioHTTPProvider
from eigen.chain.rpc import Rpc
from eigen.crypto.identity import Identity
from eigen.protocol.messages import Attestation, Proposal
from eigen.protocol.types import Address, Digest, RunId

CHAIN_ID = 31337
QUICK = OutboxSettings(poll_s=0.05)
COIN = 10**18


@dataclass
class Anvil:
    """A running node; its `control` methods are Anvil's own, beside the standard ones."""

    url: str
    process: subprocess.Popen[bytes]
    control_provider: TrioHTTPProvider | None = field(default=None, repr=False)

    async def control(self, method: str, *params: Any) -> Any:
        if self.control_provider is None:
            self.control_provider = self.provider()
        reply = await self.control_provider.make_request(method, list(params))
        assert "error" not in reply, reply
        return reply["result"]

    def provider(self) -> TrioHTTPProvider:
        return TrioHTTPProvider([self.url], chain_id=CHAIN_ID, backoff_s=0.02)

    def rpc(self) -> Rpc:
        return Rpc(self.provider(), REVERTS)

    async def give(self, account: Address, wei: int = 1000 * COIN) -> None:
        await self.control("anvil_setBalance", "0x" + account.hex(), hex(wei))

    async def mine(self, blocks: int = 1) -> None:
        await self.control("anvil_mine", hex(blocks))

    async def sleep(self, seconds: int) -> None:
        """Move the chain's clock on, and mine so that contracts see it."""
        await self.control("evm_increaseTime", seconds)
        await self.control("evm_mine")

    async def hold_mining(self) -> None:
        await self.control("evm_setAutomine", False)

    async def pooled(self) -> int:
        return int((await self.control("txpool_status"))["pending"], 16)

    async def aclose(self) -> None:
        if self.control_provider is not None:
            await self.control_provider.aclose()
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def anvil_binary() -> Path:
    return trio.run(find_anvil)


@pytest.fixture(scope="session")
def start_anvil(
    anvil_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Anvil]]:
    folder = tmp_path_factory.mktemp("anvil")
    started: list[Anvil] = []

    def start(*options: str, port: int = 0) -> Anvil:
        log_path = folder / f"{len(started)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [anvil_binary, "--port", str(port), "--accounts", "1", *options],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        url = _listening(process, log_path)
        started.append(Anvil(url, process))
        return started[-1]

    yield start
    for anvil in started:
        anvil.kill()


def _listening(process: subprocess.Popen[bytes], log_path: Path) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        text = log_path.read_text()
        if "Listening on " in text:
            return "http://" + text.split("Listening on ")[1].split()[0]
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"Anvil did not start: {log_path.read_text()}")


@pytest.fixture
async def anvil(start_anvil: Callable[..., Anvil]) -> AsyncIterator[Anvil]:
    node = start_anvil()
    yield node
    await node.aclose()


@pytest.fixture
async def account(anvil: Anvil) -> Identity:
    """A fresh account with gas money."""
    identity = Identity.generate()
    await anvil.give(identity.address)
    return identity


@dataclass(frozen=True)
class RunProposal(Proposal):
    """A proposal with its only decision beside it."""

    opens: OpenRun = field(kw_only=True)


@dataclass(frozen=True)
class Dao:
    contracts: Contracts
    founders: list[Identity]
    validators: list[Identity]  # in ascending order of their addresses

    def proposal(self, number: int = 1, **changes: Any) -> RunProposal:
        terms: dict[str, Any] = {
            "run": RunId(number.to_bytes(32)),
            "spec": Digest(b"\x5e" * 32),
            "rounds": 10,
            "reward_per_round": 1000,
        }
        description = changes.pop("description", f"run {number}")
        opens = OpenRun(**terms | changes)
        return RunProposal((call_of(self.contracts, opens),), description, opens=opens)


DAO_SPEC: dict[str, Any] = {
    "token_name": "Test DAO",
    "token_symbol": "TEST",
    "quorum": 2,
    "voting_delay_s": 1,
    "voting_period_s": 100,
    "timelock_delay_s": 50,
    "proposal_threshold": COIN,
    "quorum_percent": 50,
}


def dao_spec(founders: list[Identity], validators: list[Identity], /, **changes: Any) -> DaoSpec:
    terms = DAO_SPEC | {
        "founders": [(founder.address, 100 * COIN) for founder in founders],
        "validators": [validator.address for validator in validators],
    }
    return DaoSpec(**terms | changes)


@pytest.fixture(scope="session")
def dao_snapshot(start_anvil: Callable[..., Anvil]) -> tuple[Dao, str]:
    """A DAO and the dumped state of a chain that has it: deploying anew takes seconds."""
    founders = [Identity.generate() for _ in range(4)]
    validators = sorted((Identity.generate() for _ in range(3)), key=lambda v: v.address)

    async def deploy() -> tuple[Dao, str]:
        node = start_anvil()
        await node.give(founders[0].address)
        async with node.provider() as provider:
            contracts = await deploy_dao(
                provider, founders[0].secret, dao_spec(founders, validators), settings=QUICK
            )
        state = await node.control("anvil_dumpState")
        await node.aclose()
        return Dao(contracts, founders, validators), state

    return trio.run(deploy)


@pytest.fixture
async def dao(anvil: Anvil, dao_snapshot: tuple[Dao, str]) -> Dao:
    await anvil.control("anvil_loadState", dao_snapshot[1])
    await anvil.sleep(2)  # founders' votes are those of the past, also if it was founded just now
    return dao_snapshot[0]


OpenChain = Callable[..., EvmChain]


@pytest.fixture
def open_chain(anvil: Anvil, dao: Dao, tmp_path: Path) -> OpenChain:
    """`async with open_chain() as chain`: the first founder's view, or another account's."""

    def make(
        identity: Identity | None = None,
        *,
        settings: OutboxSettings = QUICK,
        provider: Any = None,
        contracts: Contracts | None = None,
        **options: Any,
    ) -> EvmChain:
        sender = identity or dao.founders[0]
        return EvmChain(
            provider or anvil.provider(),
            contracts or dao.contracts,
            chain_id=CHAIN_ID,
            secret=sender.secret,
            outbox_path=tmp_path / f"{sender.address.hex()}.sqlite",
            settings=settings,
            **options,
        )

    return make


@pytest.fixture
async def open_outbox(
    anvil: Anvil, account: Identity, tmp_path: Path
) -> AsyncIterator[Callable[..., Outbox]]:
    """`async with open_outbox() as outbox`: of the fresh account, always in the same file."""
    rpcs: list[Rpc] = []

    def make(
        *,
        settings: OutboxSettings = QUICK,
        provider: AsyncBaseProvider | None = None,
        secret: bytes = account.secret,
        now: Callable[[], float] = time.time,
    ) -> Outbox:
        rpcs.append(Rpc(provider or anvil.provider(), REVERTS))
        path = tmp_path / "outbox.sqlite"
        return Outbox(rpcs[-1], secret, path, chain_id=CHAIN_ID, settings=settings, now=now)

    yield make
    for rpc in rpcs:
        await rpc.aclose()


async def ballot(
    chain: EvmChain, voter: Identity, proposal: int, support: Support = Support.FOR
) -> Ballot:
    """A ballot as a member signs it."""
    nonce = await chain.ballot_nonce(voter.address)
    digest = chain.ballot_digest(proposal, support, voter.address, nonce)
    return Ballot(proposal, support, voter.address, nonce, voter.sign(digest))


async def open_run(chain: EvmChain, anvil: Anvil, dao: Dao, call: RunProposal) -> None:
    """Take a proposal all the way to its execution."""
    await chain.propose(call)
    await anvil.sleep(2)
    proposal = chain.proposal_id(call)
    await chain.relay_ballots([await ballot(chain, voter, proposal) for voter in dao.founders])
    await anvil.sleep(dao_spec(dao.founders, dao.validators).voting_period_s)
    await chain.queue(call)
    await anvil.sleep(dao_spec(dao.founders, dao.validators).timelock_delay_s)
    await chain.execute(call)


Send = Callable[[], Awaitable[RPCResponse]]
Interference = Callable[[Send], Awaitable[RPCResponse]]


class Between(AsyncBaseProvider):
    """A provider in front of a real one, that counts requests and lets a test interfere.

    `interfere[method]` gets a function that passes the request on, and answers in its place.
    """

    def __init__(self, anvil: Anvil) -> None:
        super().__init__()
        self._inner = anvil.provider()
        self.asked: Counter[str] = Counter()
        self.params: dict[str, Any] = {}  # of the last request of each method
        self.sent: list[str] = []
        self.interfere: dict[str, Interference] = {}

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        self.asked[method] += 1
        self.params[method] = params
        if method == "eth_sendRawTransaction":
            self.sent.append(str(params[0]))

        async def pass_on() -> RPCResponse:
            return await self._inner.make_request(method, params)

        interference = self.interfere.get(method)
        return await (interference(pass_on) if interference else pass_on())

    async def aclose(self) -> None:
        await self._inner.aclose()


def attestation(chain: EvmChain, root: RoundRoot, signer: Identity) -> Attestation:
    """What a validator says of a round."""
    said = (root.checkpoint, root.record, root.payout_root, root.payout_total)
    return Attestation(root.run, root.round, *said, signer.sign(chain.round_digest(root)))
