"""What the control API offers: the node's services, told in plain JSON values."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from eigen.chain.decisions import OpenRun
from eigen.chain.port import (
    Chain,
    ChainError,
    Receipt,
    Standing,
    Support,
    TransactionReverted,
)
from eigen.config.addresses import format_address, parse_address
from eigen.node.canary import Canary
from eigen.node.control import ControlError, Method
from eigen.node.dao_view import dao_view
from eigen.node.datasets import Dataset, Datasets
from eigen.node.evaluation import Evaluations
from eigen.node.exit_codes import ExitCode
from eigen.node.governance import CannotVote, GovernanceService, UnknownProposal
from eigen.node.members import Members
from eigen.node.proposal_view import proposal_view
from eigen.node.proposing import CannotPropose, Proposer
from eigen.node.replay import NOT_REPLAYED
from eigen.node.rounds import Rounds
from eigen.node.run_ports import RunPorts
from eigen.node.settlement import NothingToClaim, Settlement
from eigen.protocol import limits
from eigen.protocol.changes import differences
from eigen.protocol.cid import CidError, parse_cid
from eigen.protocol.governance import KnownProposal
from eigen.protocol.messages import Check, Proposal
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address, Cid, Digest, RunId
from eigen.protocol.wire import encode, encode_bare

if TYPE_CHECKING:
    from eigen.node.app import Home
    from eigen.node.libp2p.network import Libp2pNetwork

PINS_AT_ONCE_MAX = 64
"""Contents that one call pins: each is read from disk first."""


class Methods:
    """One coroutine a call; `table` names them."""

    def __init__(
        self,
        home: "Home",
        network: "Libp2pNetwork",
        members: Members,
        datasets: Datasets,
        rounds: Rounds,
        governance: GovernanceService,
        settlement: Settlement,
        chain: Chain,
        ports: RunPorts,
    ) -> None:
        self._home = home
        self._network = network
        self._members = members
        self._datasets = datasets
        self._rounds = rounds
        self._governance = governance
        self._settlement = settlement
        self._chain = chain
        self._ports = ports
        self._proposer = Proposer(chain, governance, rounds, home.network.contracts.token)

    def table(self, *, evaluations: Evaluations, canary: Canary) -> dict[str, Method]:
        """Methods by name."""
        self._evaluations = evaluations
        self._canary = canary
        return {
            "status": self.status,
            "peers": self.peers,
            "proposals": self.proposals,
            "runs": self.runs,
            "seed": self.seed,
            "propose": self.propose,
            "run_spec": self.run_spec,
            "vote": self.vote,
            "delegate": self.delegate,
            "pin": self.pin,
            "proofs": self.proofs,
            "proof": self.proof,
            "replay": self.replay,
            "claim": self.claim,
            "dao": self.dao,
            "join_dao": self.join_dao,
            "admit": self.admit,
            "payout": self.payout,
            "stop": self.stop,
        }

    # what is -------------------------------------------------------------------------------------
    async def status(self, _: dict[str, Any]) -> dict[str, Any]:
        """Everything at a glance."""
        offers = self._members.membership.member(self._network.local)
        reach = self._network.reach()
        return {
            "address": format_address(self._network.local),
            "pid": os.getpid(),
            "network": self._home.network.name,
            "network_id": self._home.network.network_id,
            "listen": list(self._network.listen_addrs()),
            "dialable": reach.dialable,
            "relays": list(reach.relays),
            "roles": list(offers.heartbeat.roles) if offers else [],
            "peers": len(self._network.peers()),
            "trainers": len(self._members.with_role("trainer")),
            "loop_lag_s_max": self._canary.lag_s_max,
            "proposals": await self.proposals({}),
            "runs": await self.runs({}),
        }

    async def peers(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        """Connected peers, with what their heartbeats say."""
        rows = []
        for peer in sorted(self._network.peers()):
            member = self._members.membership.member(peer)
            beat = member.heartbeat if member else None
            info = self._network.describe(peer)
            rows.append(
                {
                    "address": format_address(peer),
                    "roles": list(beat.roles) if beat else [],
                    "software": beat.software if beat else "",
                    "addrs": list(beat.addrs) if beat else [],
                    "score": self._network.score(peer),
                    "relayed": info is not None and info.relayed,
                }
            )
        return rows

    async def proposals(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        """Proposals that this node knows."""
        return [self._view(known) for known in self._governance.machine.proposals.values()]

    async def runs(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        """Runs that are open here, with every round that is attested."""
        return [self._run(run) for run in self._rounds.drivers]

    def _run(self, run: RunId) -> dict[str, Any]:
        driver = self._rounds.drivers[run]
        figures = self._evaluations.figures.get(run, {})
        me = self._network.local
        record = driver.head.head
        earned = {p.account: p.cumulative for p in record.payouts} if record else {}
        return {
            "run": run.hex(),
            "name": driver.context.spec.name,
            "round": driver.head.round,
            "rounds": driver.context.spec.rounds,
            "phase": driver.phase,
            "changes": [
                {
                    "from_round": change.from_round,
                    "what": differences(driver.context.spec, change.spec),
                }
                for change in driver.context.course.changes
            ],
            "finished": driver.head.finished,
            "checkpoint": driver.head.checkpoint,
            "genesis": driver.context.genesis,
            "earned": str(earned.get(me, 0)),
            "history": {
                str(n): {
                    "checkpoint": r.checkpoint,
                    "attempt": r.attempt.number,
                    "spec": r.spec.hex() if any(r.spec) else "",
                    "trainers": {format_address(c.account): str(c.amount) for c in r.trainers},
                    "validators": {format_address(c.account): str(c.amount) for c in r.validators},
                }
                for n, r in driver.history.items()
            },
            "held": str(sum(p.held for p in record.payouts) if record else 0),
            "checks": len(record.checks) if record else 0,
            "ejected": [format_address(a) for a in record.ejected] if record else [],
            "replayed": [
                {
                    "round": check.round,
                    "trainer": format_address(check.trainer),
                    "finding": shown.finding.name.lower(),
                    "deviation": shown.deviation,
                }
                for check, shown in driver.replayed.items()
            ],
            "payouts": {format_address(a): str(v) for a, v in earned.items()},
            "figures": {
                str(n): {"loss": f.loss, "accuracy": f.accuracy} for n, f in figures.items()
            },
            "posted": {str(n): tx for (r, n), tx in self._settlement.posted.items() if r == run},
            "notes": [f"{what}: {detail}" if detail else what for what, detail in driver.notes],
        }

    # proofs ---------------------------------------------------------------------------------------
    async def proofs(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        """Proofs that are here, oldest first, and whether their rounds were or will be replayed."""
        rows = []
        for run, driver in self._rounds.drivers.items():
            if not run.hex().startswith(str(params.get("run", ""))):
                continue
            head = driver.head.head
            due = {(c.round, c.trainer) for c in head.checks} if head else set()
            ejected = head.ejected if head else ()
            for (round_, trainer), name in (await driver.proofs.known()).items():
                state = "ejected" if trainer in ejected else "credited"
                rows.append(
                    {
                        "id": name.hex(),
                        "run": run.hex(),
                        "round": round_,
                        "trainer": format_address(trainer),
                        "state": "replay due" if (round_, trainer) in due else state,
                    }
                )
        return rows

    async def proof(self, params: dict[str, Any]) -> dict[str, Any]:
        """The one proof whose id starts with `id`, as hexadecimal canonical bytes."""
        wanted = str(params.get("id", "")).removeprefix("0x")
        found = [
            (driver, round_, trainer)
            for driver in self._rounds.drivers.values()
            for (round_, trainer), name in (await driver.proofs.known()).items()
            if name.hex().startswith(wanted)
        ]
        if not wanted or len(found) != 1:
            text = f"{len(found)} proofs match {wanted!r}; see: eigen proofs list"
            raise ControlError(text, ExitCode.USAGE)
        [(driver, round_, trainer)] = found
        proof = await driver.proofs.proof(round_, trainer)
        if proof is None:
            raise ControlError("its seat or record is no longer here", ExitCode.FAILED)
        return {"proof": encode(proof).hex()}

    async def replay(self, params: dict[str, Any]) -> dict[str, Any]:
        """Do a trainer's round again, and say what that shows."""
        try:
            driver = self._rounds.drivers[RunId(bytes.fromhex(params["run"]))]
            check = Check(Address(bytes.fromhex(params["trainer"])), int(params["round"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ControlError("this run is not open here", ExitCode.USAGE) from error
        try:
            shown = await driver.replayer.replay(check)
        except NOT_REPLAYED as error:
            raise ControlError(f"it cannot be replayed: {error}", ExitCode.FAILED) from error
        return {"finding": shown.finding.name.lower(), "deviation": shown.deviation}

    # what a person asks for -----------------------------------------------------------------------
    async def seed(self, params: dict[str, Any]) -> dict[str, Any]:
        """Take shard files in: seal, store and announce them."""

        def read() -> Dataset:
            shards = [(Path(s["path"]).read_bytes(), int(s["samples"])) for s in params["shards"]]
            holdout = Path(params["holdout"]).read_bytes()
            return Dataset(str(params["name"]), shards, holdout, bool(params["sealed"]))

        try:
            dataset = await trio.to_thread.run_sync(read)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ControlError(f"the dataset cannot be read: {error}", ExitCode.USAGE) from error
        return {"manifest": await self._datasets.seed(dataset)}

    async def propose(self, params: dict[str, Any]) -> dict[str, Any]:
        """Put a run, a payment or what else a member wants to the vote; see `Proposer`."""
        try:
            known = await self._proposer.propose(params)
        except (KeyError, TypeError, ValueError) as error:  # `WireError` is one
            raise ControlError(f"no proposal: {error}", ExitCode.USAGE) from error
        except (CannotPropose, UnknownProposal) as error:
            raise ControlError(str(error), ExitCode.FAILED) from error
        except ChainError as error:
            raise _refused("the proposal was not taken", error) from error
        return self._view(known)

    def _view(self, known: KnownProposal) -> dict[str, Any]:
        token = self._home.network.contracts.token
        return proposal_view(known, self._governance, self._chain, token, self._spec_before)

    def _spec_before(self, run: RunId, from_round: int) -> RunSpec | None:
        driver = self._rounds.drivers.get(run)
        return driver.context.course.expected(from_round - 1).spec if driver else None

    async def run_spec(self, params: dict[str, Any]) -> dict[str, Any]:
        """By which spec a run's next rounds go: canonical, in hex."""
        prefix = str(params.get("run", ""))
        runs = [r for r in self._rounds.drivers if prefix and r.hex().startswith(prefix)]
        if len(runs) != 1:
            text = f"{len(runs)} open runs match {prefix!r}; see: eigen runs"
            raise ControlError(text, ExitCode.USAGE)
        driver = self._rounds.drivers[runs[0]]
        spec = driver.context.course.expected(limits.ROUNDS_MAX).spec
        return {"run": runs[0].hex(), "round": driver.head.round, "spec": encode_bare(spec).hex()}

    async def vote(self, params: dict[str, Any]) -> dict[str, Any]:
        """Sign a ballot for the proposal whose governor id or run starts with `proposal`."""
        id_ = self._find(str(params.get("proposal", "")))
        support = Support[str(params["support"]).upper()]
        try:
            ballot = await self._governance.vote(id_, support)
        except UnknownProposal as error:
            raise ControlError(str(error), ExitCode.USAGE) from error
        except CannotVote as error:
            raise ControlError(f"no ballot was signed: {error}", ExitCode.FAILED) from error
        except ChainError as error:
            raise _refused("the vote could not be signed", error) from error
        return {"proposal": str(id_), "voter": format_address(ballot.voter)}

    async def delegate(self, params: dict[str, Any]) -> dict[str, Any]:
        """Let another account vote for this node's tokens."""
        try:
            to = parse_address(str(params.get("to", "")))
            receipt = await self._chain.delegate(to)
        except ValueError as error:
            raise ControlError(f"to: {error}", ExitCode.USAGE) from error
        except ChainError as error:
            raise _refused("the delegate was not set", error) from error
        return {"delegate": format_address(to), "tx": receipt.tx if receipt else ""}

    async def dao(self, _: dict[str, Any]) -> dict[str, Any]:
        """The DAO on chain, and where this node stands in it."""
        return await dao_view(self._home.network, self._chain, self._network.local)

    async def join_dao(self, _: dict[str, Any]) -> dict[str, Any]:
        """Ask to be a member, with the digest of what this node offers."""
        me = self._network.local
        member = self._members.membership.member(me)
        offer = encode(member.heartbeat) if member else b""
        statement = Digest(hashlib.sha256(offer).digest())
        try:
            receipt = await self._chain.request_membership(statement)
            standing = await self._chain.standing(me)
        except ChainError as error:
            raise _refused("the request was not taken", error) from error
        return _standing(me, standing, receipt)

    async def admit(self, params: dict[str, Any]) -> dict[str, Any]:
        """Approve or refuse an account, as the owner of the DAO's membership."""
        try:
            account = parse_address(str(params.get("account", "")))
            receipt = await self._chain.admit(account, bool(params.get("approved")))
            standing = await self._chain.standing(account)
        except ValueError as error:
            raise ControlError(f"account: {error}", ExitCode.USAGE) from error
        except ChainError as error:
            raise _refused("the account's standing was not changed", error) from error
        return _standing(account, standing, receipt)

    async def claim(self, params: dict[str, Any]) -> dict[str, Any]:
        """Claim what is owed for one run, or for the only one; `all` claims for everybody."""
        prefix = str(params.get("run", ""))
        runs = [r for r in self._rounds.drivers if r.hex().startswith(prefix)]
        if len(runs) != 1:
            raise ControlError(f"{len(runs)} runs match {prefix!r}: name one", ExitCode.USAGE)
        try:
            if params.get("all"):
                count, receipts = await self._settlement.claim_for_all(runs[0])
                return {"accounts": count, "txs": [receipt.tx for receipt in receipts]}
            await self._bind_payout()
            amount, receipt = await self._settlement.claim(runs[0])
        except NothingToClaim as error:
            raise ControlError(str(error), ExitCode.FAILED) from error
        except ChainError as error:
            raise _refused("the claim was not taken", error) from error
        me = self._network.local
        return {
            "account": format_address(me),
            "amount": str(amount),
            "tx": receipt.tx,
            "balance": str(await self._chain.balance(self._payee())),
        }

    async def payout(self, params: dict[str, Any]) -> dict[str, Any]:
        """Where earnings go; with an `address`, have them go there from now on."""
        me, text, receipt = self._network.local, str(params.get("address", "")), None
        try:
            if text:
                payee = parse_address(text)
                named = self._home.config.payout.address
                if named is not None and named != payee:
                    told = f"the setting payout.address names {format_address(named)}"
                    raise ControlError(f"{told}: change it there", ExitCode.CONFIGURATION)
                receipt = await self._chain.set_payout(payee)
            payee = await self._chain.payout_of(me)
        except ValueError as error:
            raise ControlError(f"address: {error}", ExitCode.USAGE) from error
        except ChainError as error:
            raise _refused("the payout address was not set", error) from error
        return {"payout": format_address(payee), "tx": receipt.tx if receipt else ""}

    async def pin(self, params: dict[str, Any]) -> list[str]:
        """Pin contents that are on disk, or give pins up. Returns all that is pinned then."""
        contents, remove = params.get("contents", []), bool(params.get("remove", False))
        if not isinstance(contents, list) or len(contents) > PINS_AT_ONCE_MAX:
            text = f"contents: a list of at most {PINS_AT_ONCE_MAX} content ids"
            raise ControlError(text, ExitCode.USAGE)
        for cid in contents:
            try:
                parse_cid(str(cid))
                missing = () if remove else await self._ports.blobs.missing(Cid(cid))
            except CidError as error:
                raise ControlError(f"contents: {error}", ExitCode.USAGE) from error
            if missing:
                raise ControlError(f"{cid} is not whole on this disk", ExitCode.FAILED)
            if remove:
                await self._ports.retention.unpin(Cid(cid))
        if not remove:
            await self._ports.retention.pin(*map(Cid, contents))
        return list(await self._ports.retention.pins())

    def _payee(self) -> Address:
        return self._home.config.payout.address or self._network.local

    async def _bind_payout(self) -> None:
        payee = self._home.config.payout.address
        if payee is not None:
            await self._chain.set_payout(payee)

    async def stop(self, _: dict[str, Any]) -> dict[str, Any]:
        """End the daemon, as the first signal does."""
        os.kill(os.getpid(), 15)
        return {"pid": os.getpid()}

    def _find(self, prefix: str) -> int:
        """By the beginning of a proposal's id, or of the id of the run that it opens."""
        wanted = prefix.removeprefix("0x").lower()

        def opens(proposal: Proposal) -> bool:
            decided = self._chain.decisions(proposal)
            return any(isinstance(d, OpenRun) and d.run.hex().startswith(wanted) for d in decided)

        known = self._governance.machine.proposals.values()
        found = [p.id for p in known if str(p.id).startswith(wanted) or opens(p.proposal)]
        if not wanted or len(found) != 1:
            text = f"{len(found)} proposals match {prefix!r}; see: eigen proposals"
            raise ControlError(text, ExitCode.USAGE)
        return found[0]


def _standing(account: Address, standing: Standing, receipt: Receipt) -> dict[str, Any]:
    name = standing.name.lower()
    return {"account": format_address(account), "standing": name, "tx": receipt.tx}


def _refused(what: str, error: ChainError) -> ControlError:
    reason = error.error if isinstance(error, TransactionReverted) else str(error)
    return ControlError(f"{what}: {reason}", ExitCode.FAILED)
