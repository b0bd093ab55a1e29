"""What the control API offers: the node's services, told in plain JSON values."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from eigen.chain.port import (
    Chain,
)
from eigen.config.addresses import format_address
from eigen.node.canary import Canary
from eigen.node.control import ControlError, Method
from eigen.node.dao_methods import DaoMethods
from eigen.node.datasets import Dataset, Datasets
from eigen.node.evaluation import Evaluations
from eigen.node.exit_codes import ExitCode
from eigen.node.governance import GovernanceService
from eigen.node.members import Members
from eigen.node.replay import NOT_REPLAYED
from eigen.node.rounds import Rounds
from eigen.node.run_ports import RunPorts
from eigen.node.settlement import Settlement
from eigen.protocol.changes import differences
from eigen.protocol.cid import CidError, parse_cid
from eigen.protocol.messages import Check
from eigen.protocol.types import Address, Cid, RunId
from eigen.protocol.wire import encode

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
        self._settlement = settlement
        self._ports = ports
        self._dao = DaoMethods(home, network, members, rounds, governance, settlement, chain)

    def table(self, *, evaluations: Evaluations, canary: Canary) -> dict[str, Method]:
        """Methods by name."""
        self._evaluations = evaluations
        self._canary = canary
        return {
            "status": self.status,
            "peers": self.peers,
            "runs": self.runs,
            "seed": self.seed,
            "pin": self.pin,
            "proofs": self.proofs,
            "proof": self.proof,
            "replay": self.replay,
            "stop": self.stop,
            **self._dao.table(),
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
            "proposals": await self._dao.proposals({}),
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

    async def stop(self, _: dict[str, Any]) -> dict[str, Any]:
        """End the daemon, as the first signal does."""
        os.kill(os.getpid(), 15)
        return {"pid": os.getpid()}
