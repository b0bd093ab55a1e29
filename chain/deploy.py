"""Founding a DAO: one call of the factory, and a look at who has which power afterwards.

The deployer never has a role in the DAO. Knows no network file and no daemon.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eth_utils.address import to_checksum_address
from web3.providers.async_base import AsyncBaseProvider

from eigen.chain.abi import Abi, AbiMismatch
from eigen.chain.bindings import FACTORY, REVERTS, TIMELOCK, TOKEN
from eigen.chain.foundry import DeploymentUnsound, Foundry, check_foundry, deploy_foundry
from eigen.chain.outbox import Outbox, OutboxSettings
from eigen.chain.port import DaoContracts, Receipt
from eigen.chain.rpc import Call, Rpc
from eigen.crypto.hashing import keccak256
from eigen.protocol.limits import VALIDATORS_MAX
from eigen.protocol.types import Address, Digest

FOUNDERS_MAX: Final = 24
"""Founding mints to all of them in one transaction, which may use 16.8 million gas (EIP-7825). More
members join by a vote to mint, or by what they earn."""
TEXT_CHARS_MAX: Final = 64
"""Of a token's name and symbol."""
DELAY_S_MAX: Final = 365 * 86_400
"""A year: longer delays are mistyped units, and would freeze the DAO."""
AMOUNT_MAX: Final = (1 << 208) - 1
"""`ERC20Votes` counts supply and votes in 208 bits."""

BOND_MAX: Final = (1 << 128) - 1
"""What the ledger has room for."""

NOBODY: Final = Address(bytes(20))
"""As an executor in OpenZeppelin's timelock: everybody."""
DEFAULT_ADMIN_ROLE: Final = Digest(bytes(32))
MINTER_ROLE: Final = keccak256(b"MINTER_ROLE")
PROPOSER_ROLE: Final = keccak256(b"PROPOSER_ROLE")
CANCELLER_ROLE: Final = keccak256(b"CANCELLER_ROLE")
EXECUTOR_ROLE: Final = keccak256(b"EXECUTOR_ROLE")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaoSpec:
    """What founders decide. Amounts in base units (18 decimals), times in seconds."""

    token_name: str
    token_symbol: str
    founders: Sequence[tuple[Address, int]]  # who holds how much at the start
    validators: Sequence[Address]
    quorum: int  # validators that must sign a round: more than half of them
    voting_delay_s: int
    voting_period_s: int
    timelock_delay_s: int
    proposal_threshold: int  # votes that a proposer needs
    quorum_percent: int  # of the supply, that must vote for or abstain
    challenge_window_s: int = 0  # from a root's posting until it pays; 0: at once
    unbonding_delay_s: int = 0  # until a validator gets its bond back; at least the window
    bond: int = 0  # what a validator must have bonded when the DAO names it
    guardian: Address = NOBODY  # may veto a root in its window
    owner: Address = NOBODY  # admits members, besides the DAO
    open_membership: bool = True  # whether asking is enough to be a member
    revenue_asset: Address = NOBODY  # what revenue is shared in; nobody's: the DAO token
    unstake_delay_s: int = 7 * 86_400  # until unstaked tokens come back

    def __post_init__(self) -> None:
        """Raises ValueError naming the field and what it may be."""
        for name in ("token_name", "token_symbol"):
            if not 0 < len(getattr(self, name)) <= TEXT_CHARS_MAX:
                raise ValueError(f"{name}: give 1 to {TEXT_CHARS_MAX} characters")
        accounts = [account for account, _ in self.founders]
        _check_accounts("founders", accounts, FOUNDERS_MAX)
        if any(amount <= 0 for _, amount in self.founders):
            raise ValueError("founders: every amount must be positive")
        supply = sum(amount for _, amount in self.founders)
        if supply > AMOUNT_MAX:
            raise ValueError(f"founders: amounts sum to {supply}, more than {AMOUNT_MAX}")
        _check_accounts("validators", self.validators, VALIDATORS_MAX)
        if not len(self.validators) < 2 * self.quorum <= 2 * len(self.validators):
            raise ValueError(
                f"quorum: {self.quorum} of {len(self.validators)} validators is not more than half"
                " of them and at most all"
            )
        for name, least in (("voting_delay_s", 0), ("voting_period_s", 1), ("timelock_delay_s", 0)):
            if not least <= getattr(self, name) <= DELAY_S_MAX:
                raise ValueError(f"{name}: give {least} to {DELAY_S_MAX} seconds")
        if not 0 <= self.challenge_window_s <= self.unbonding_delay_s <= DELAY_S_MAX:
            raise ValueError(
                f"unbonding_delay_s: give challenge_window_s to {DELAY_S_MAX} seconds, so that a"
                " validator cannot leave before its signatures can be challenged"
            )
        if not 0 <= self.unstake_delay_s <= DELAY_S_MAX:
            raise ValueError(f"unstake_delay_s: give 0 to {DELAY_S_MAX} seconds")
        if not 0 <= self.bond <= BOND_MAX:
            raise ValueError(f"bond: give 0 to {BOND_MAX}")
        if not 0 <= self.proposal_threshold <= supply:
            raise ValueError("proposal_threshold: nobody could propose; give at most the supply")
        if not 0 <= self.quorum_percent <= 100:
            raise ValueError("quorum_percent: give 0 to 100")


def _check_accounts(field: str, accounts: Sequence[Address], count_max: int) -> None:
    if not 0 < len(accounts) <= count_max:
        raise ValueError(f"{field}: name 1 to {count_max} accounts, not {len(accounts)}")
    if any(len(account) != len(NOBODY) or not any(account) for account in accounts):
        raise ValueError(f"{field}: an address is 20 bytes that are not all zero")
    if len(set(accounts)) != len(accounts):
        raise ValueError(f"{field}: an account is named twice")


async def deploy_dao(
    provider: AsyncBaseProvider,
    deployer_secret: bytes,
    spec: DaoSpec,
    *,
    outbox_path: Path | None = None,
    settings: OutboxSettings | None = None,
    foundry: Foundry | None = None,
) -> DaoContracts:
    """Found a DAO and return its contracts' addresses. Leaves the provider open.

    Without a `foundry` it deploys one first: twelve transactions before the one that founds.

    With an `outbox_path`, the same call after a crash or a cancel goes on where it stopped, without
    deploying anything twice; the file is of this one deployment. Raises `DeploymentUnsound` where
    the roles come out wrong, and what `Outbox.submit` raises.
    """
    rpc = Rpc(provider, REVERTS)
    chain_id = await rpc.chain_id()
    async with Outbox(
        rpc, deployer_secret, outbox_path, chain_id=chain_id, settings=settings
    ) as outbox:
        if foundry is None:
            foundry = await deploy_foundry(rpc, outbox)
        await check_foundry(rpc, foundry, outbox.address)
        founding = _Founding(rpc, outbox, spec, foundry.factory)
        contracts = await founding.found()
        await founding.check(contracts)
    return contracts


async def fund(
    provider: AsyncBaseProvider,
    secret: bytes,
    accounts: Mapping[Address, int],
    *,
    settings: OutboxSettings | None = None,
) -> list[Receipt]:
    """Send gas money, wei for each account, by plain transfers. Leaves the provider open.

    Not idempotent across calls: it keeps its outbox in memory.
    """
    rpc = Rpc(provider, REVERTS)
    chain_id = await rpc.chain_id()
    async with Outbox(rpc, secret, None, chain_id=chain_id, settings=settings) as outbox:
        return [
            await outbox.submit(f"fund {account.hex()}", account, b"", value_wei=wei)
            for account, wei in accounts.items()
        ]


class _Founding:
    """The one transaction, an intent of the deployer's outbox, and what must hold after it."""

    def __init__(self, rpc: Rpc, outbox: Outbox, spec: DaoSpec, factory: Address) -> None:
        self._rpc = rpc
        self._outbox = outbox
        self._spec = spec
        self._factory = factory

    async def found(self) -> DaoContracts:
        data = FACTORY.calldata("createDao", self._plan())
        receipt = await self._outbox.submit("found the DAO", self._factory, data)
        topics = [FACTORY.topic("DaoCreated")]
        for log in await self._rpc.logs([self._factory], topics, receipt.block, receipt.block):
            if log.tx.hex() == receipt.tx.removeprefix("0x"):
                return _named(FACTORY.event(log.topics, log.data).args["dao"])
        raise DeploymentUnsound(f"the factory announced no DAO in transaction {receipt.tx}")

    def _plan(self) -> tuple[object, ...]:
        """`DaoFactory.Plan`, in field order."""
        spec = self._spec
        return (
            spec.token_name,
            spec.token_symbol,
            list(spec.founders),
            list(spec.validators),
            spec.quorum,
            (spec.challenge_window_s, spec.unbonding_delay_s, spec.bond, spec.guardian),
            spec.voting_delay_s,
            spec.voting_period_s,
            spec.timelock_delay_s,
            spec.proposal_threshold,
            spec.quorum_percent,
            spec.owner,
            spec.open_membership,
            spec.revenue_asset,
            spec.unstake_delay_s,
        )

    async def check(self, contracts: DaoContracts) -> None:
        """Read back who has which role. Raises `DeploymentUnsound`."""
        deployer, token, timelock = self._outbox.address, contracts.token, contracts.timelock
        governor, ledger = contracts.governor, contracts.ledger
        expected = [
            (token, TOKEN, MINTER_ROLE, ledger, True),
            (token, TOKEN, DEFAULT_ADMIN_ROLE, timelock, True),
            (timelock, TIMELOCK, PROPOSER_ROLE, governor, True),
            (timelock, TIMELOCK, CANCELLER_ROLE, governor, True),
            (timelock, TIMELOCK, EXECUTOR_ROLE, NOBODY, True),
            (timelock, TIMELOCK, DEFAULT_ADMIN_ROLE, timelock, True),
            *(
                (at, abi, role, account, False)
                for account in (deployer, self._factory)
                for at, abi, roles in (
                    (token, TOKEN, (MINTER_ROLE, DEFAULT_ADMIN_ROLE)),
                    (timelock, TIMELOCK, (PROPOSER_ROLE, CANCELLER_ROLE, DEFAULT_ADMIN_ROLE)),
                )
                for role in roles
            ),
        ]
        for at, abi, role, account, should in expected:
            if await self._read(at, abi, "hasRole", role, account) != should:
                raise DeploymentUnsound(
                    f"{to_checksum_address(at)}: {to_checksum_address(account)} must"
                    f" {'' if should else 'not '}have role 0x{role.hex()}"
                )
        supply = sum(amount for _, amount in self._spec.founders)
        minted = await self._read(token, TOKEN, "totalSupply")
        if minted != supply:
            raise DeploymentUnsound(f"the supply is {minted}, the founders were to get {supply}")

    async def _read(self, at: Address, abi: Abi, function: str, *args: object) -> object:
        data = await self._rpc.call(Call(self._outbox.address, at, abi.calldata(function, *args)))
        try:
            return abi.results(function, data)[0]
        except AbiMismatch as error:
            raise DeploymentUnsound(f"{to_checksum_address(at)}: {error}") from error


def _named(dao: tuple[bytes, ...]) -> DaoContracts:
    """`DaoFactory.Dao`, whose fields are in this order."""
    token, timelock, governor, ledger, *rest = (Address(account) for account in dao)
    registry, escrow, revenue, membership, creations = rest
    return DaoContracts(
        token=token,
        timelock=timelock,
        governor=governor,
        ledger=ledger,
        registry=registry,
        escrow=escrow,
        revenue=revenue,
        membership=membership,
        creations=creations,
    )
