"""All runs of this node: opens each when the chain does, routes gossip and requests to it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
import trio

from eigen.chain.port import RunChanged, RunOpened
from eigen.config.network import Parameters
from eigen.crypto.merkle import payout_root
from eigen.node.attested import signs
from eigen.node.driver import HISTORY_ROUNDS, RunDriver
from eigen.node.evidence_log import run_of
from eigen.node.fetch import ContentUnavailable
from eigen.node.gossip import TYPES, Said
from eigen.node.members import Members
from eigen.node.ports import BulkReader, RequestRefused, Verdict
from eigen.node.retention import ONCE_UNNAMED
from eigen.node.run_changes import Announced, FindSpec, RunChanges
from eigen.node.run_ports import RunPorts
from eigen.node.worker import WorkerError
from eigen.protocol.committee import Promises
from eigen.protocol.context import Deadlines, RunContext
from eigen.protocol.effects import PeerDown, PeerUp, SpecChanged
from eigen.protocol.limits import PENALTY_MALFORMED
from eigen.protocol.membership import TRAINER
from eigen.protocol.messages import Attestation, LocalWork, RoundRecord, Topic
from eigen.protocol.requests import (
    EVIDENCE,
    EXCHANGE,
    HEAD,
    HEAD_REPLY_BYTES_MAX,
    OPENING,
    PART,
    PART_MESSAGE_BYTES_MAX,
    RESULT,
    EvidenceQuery,
    GroupPush,
    HeadQuery,
    HeadReply,
    OpeningQuery,
    PartPush,
    PartQuery,
    ResultPush,
    ResultQuery,
)
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address, RunId
from eigen.protocol.wire import WireError, decode, encode
from eigen.training.errors import TrainingError

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger()

LANE_IDLE_S = 60.0
"""A member that opened a lane and sends nothing for so long has gone."""
EARLY_MAX = 512
"""Round messages held for runs that this node has not seen opened yet."""


class Rounds:
    """Runs by id. `on_adopted` is told of every round that becomes a head."""

    def __init__(
        self,
        ports: RunPorts,
        members: Members,
        parameters: Parameters,
        *,
        trains: bool,
        on_adopted: Callable[[RunDriver, RoundRecord, HeadReply], None],
        find_spec: FindSpec,
    ) -> None:
        """`find_spec` gives the spec with a digest, however long it takes."""
        self._ports = ports
        self._find_spec = find_spec
        self._members = members
        self._parameters = parameters
        self._trains = trains
        self._on_adopted = on_adopted
        self.drivers: dict[RunId, RunDriver] = {}
        self.opened: dict[RunId, RunOpened] = {}
        self._opening: set[RunId] = set()
        self._announced = Announced()
        self._changes: dict[RunId, RunChanges] = {}
        self._early: list[Said] = []
        self._nursery: trio.Nursery | None = None
        for kind in TYPES[Topic.ROUNDS]:
            ports.gossip.on(kind, self._hear)
        ports.gossip.on(Attestation, self._hear, self._check_attestation)
        serve, small = ports.network.serve, 256
        ports.network.serve_bulk(EXCHANGE, self._take_all)
        serve(PART, self._serve_part, request_bytes_max=small)
        serve(RESULT, self._serve_result, request_bytes_max=small)
        serve(OPENING, self._serve_opening, request_bytes_max=small)
        serve(HEAD, self._serve_head, request_bytes_max=small)
        serve(EVIDENCE, self._serve_evidence, request_bytes_max=small)
        members.watch(self._membership_changed)

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Holds the drivers until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def prepare(self, spec: RunSpec) -> None:
        """The DAO accepted a run: fetch its manifest and start the worker while time-locks run."""
        assert self._nursery is not None
        self._nursery.start_soon(self._prepare, spec)

    async def _prepare(self, spec: RunSpec) -> None:
        try:
            await self._ports.datasets.manifest(spec.dataset)
            await self._ports.worker.initial_checkpoint(spec)
        except (ContentUnavailable, WireError, TrainingError, WorkerError) as error:
            log.warning("an accepted run cannot be prepared", name=spec.name, why=str(error))

    # opening --------------------------------------------------------------------------------------
    async def open(self, opened: RunOpened, spec: RunSpec) -> None:
        """Start driving a run that the ledger opened. Nothing happens if it is driven already."""
        if opened.run in self.drivers or opened.run in self._opening:
            return
        self._opening.add(opened.run)
        try:
            driver = await self._driver(opened, spec)
        finally:
            self._opening.discard(opened.run)
        self.drivers[opened.run] = driver
        self.opened[opened.run] = opened
        assert self._nursery is not None
        self._nursery.start_soon(driver.run)
        self._nursery.start_soon(self._changes[opened.run].run, self._announced.of(opened.run))
        driver.seatable(*self._members.lines_of(TRAINER))
        early, self._early = self._early, []
        for said in early:
            await self._hear(said)
        log.info("run opened", run=opened.run.hex()[:8], name=spec.name, rounds=spec.rounds)

    def changed(self, event: RunChanged) -> None:
        """The DAO changed a run, in the order of the chain; it may not be open here yet."""
        self._announced.add(event)

    async def _driver(self, opened: RunOpened, spec: RunSpec) -> RunDriver:
        ports, times = self._ports, self._parameters
        validators, quorum = await ports.chain.validators()
        manifest = await ports.datasets.manifest(spec.dataset)
        genesis = await ports.blobs.put(await ports.worker.initial_checkpoint(spec))
        await ports.retention.note(opened.run, ONCE_UNNAMED, genesis)
        context = RunContext(
            opened.run,
            spec,
            opened.seed,
            validators,
            quorum,
            genesis,
            ports.worker.part_count(spec),
            len(manifest.shards),
            manifest.sealed,
            Deadlines(
                times.commit_s,
                times.inputs_s,
                times.owner_s,
                times.notices_s,
                times.attempt_s,
                times.resend_s,
            ),
            payout_root,
        )
        changes = RunChanges(
            context,
            ports.records,
            ports.datasets,
            self._find_spec,
            told=lambda change: driver.post(SpecChanged(change)),
        )
        await changes.restore()
        self._changes[opened.run] = changes
        head = await ports.records.get("head", opened.run)
        promises = await ports.records.get("promises", opened.run)
        voted = await ports.records.scan("result-vote", opened.run)
        begun = await ports.records.scan("ahead", opened.run)
        driver = RunDriver(
            context,
            ports,
            trains=self._trains,
            on_adopted=lambda record, reply: self._on_adopted(driver, record, reply),
            head=decode(head, HeadReply, bytes_max=HEAD_REPLY_BYTES_MAX) if head else None,
            promises=decode(promises, Promises) if promises else None,
            voted=frozenset(key for key, _ in voted),
            begun={int.from_bytes(key[-8:], "big"): decode(row, LocalWork) for key, row in begun},
        )
        for number in range(max(1, driver.head.round - HISTORY_ROUNDS + 1), driver.head.round + 1):
            row = await ports.records.get("round", opened.run + number.to_bytes(8, "big"))
            if row is not None:
                [record] = decode(row, HeadReply, bytes_max=HEAD_REPLY_BYTES_MAX).records
                driver.history[number] = record
        await driver.sync.collect()
        return driver

    # gossip and membership ------------------------------------------------------------------------
    async def _hear(self, said: Said) -> None:
        driver = self.drivers.get(RunId(run_of(said.message)))
        if driver is not None:
            driver.hear(said)
        elif len(self._early) < EARLY_MAX:
            self._early.append(said)

    def _check_attestation(self, said: Said) -> Verdict:
        attestation: Attestation = said.message
        driver = self.drivers.get(attestation.run)
        if driver is None:
            return Verdict.ACCEPT
        if said.author not in driver.context.validators:
            return Verdict.REJECT
        sound = signs(said.author, driver.sync.signed_digest(attestation), attestation)
        return Verdict.ACCEPT if sound else Verdict.REJECT

    def _membership_changed(self, change: PeerDown | PeerUp | None) -> None:
        for driver in self.drivers.values():
            if change is not None:
                driver.post(change)
            else:
                driver.seatable(*self._members.lines_of(TRAINER))

    # requests -------------------------------------------------------------------------------------
    def _driver_of(self, run: bytes) -> RunDriver:
        driver = self.drivers.get(RunId(run))
        if driver is None:
            raise RequestRefused("this run is not open here")
        return driver

    async def _take_all(self, peer: Address, header: bytes, reader: BulkReader) -> None:
        """A member's lane: parts and results of one run, for as long as it has any."""
        driver = self._driver_of(header)
        while (data := await reader.receive(timeout_s=LANE_IDLE_S)) is not None:
            try:
                message: Any = decode(
                    data, PartPush, GroupPush, ResultPush, bytes_max=PART_MESSAGE_BYTES_MAX
                )
            except WireError as error:
                self._ports.network.penalize(peer, PENALTY_MALFORMED, f"{EXCHANGE}: {error}")
                raise RequestRefused("malformed") from error
            if message.attempt.run != driver.context.run:
                raise RequestRefused("another run than the lane's")
            await driver.take(peer, message)

    async def _serve_part(self, peer: Address, payload: bytes) -> bytes:
        query = decode(payload, PartQuery)
        driver = self._driver_of(query.attempt.run)
        if not driver.shows_parts_to(peer):
            raise RequestRefused("parts are shown to validators, and where data is open to members")
        return await driver.serve_part(query)

    async def _serve_opening(self, peer: Address, payload: bytes) -> bytes:
        query = decode(payload, OpeningQuery)
        driver = self._driver_of(query.run)
        if not driver.shows_parts_to(peer):
            raise RequestRefused("residuals are opened to validators")
        return encode(await driver.open_residuals(query))

    async def _serve_result(self, _peer: Address, payload: bytes) -> bytes:
        query = decode(payload, ResultQuery)
        return self._driver_of(query.attempt.run).serve_result(query)

    async def _serve_head(self, _peer: Address, payload: bytes) -> bytes:
        query = decode(payload, HeadQuery)
        stored = await self._ports.records.get("head", query.run)
        return stored or encode(HeadReply((), ()))

    async def _serve_evidence(self, _peer: Address, payload: bytes) -> bytes:
        query = decode(payload, EvidenceQuery)
        return encode(self._driver_of(query.run).evidence.reply())
