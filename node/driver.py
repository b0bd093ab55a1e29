"""Drives one run's machines: events in, effects performed on Trio, disk, network and worker.

The machines decide; this file only does what they say. One task feeds them, so they never see two
events at once; effects that take time run beside it and come back as events.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import structlog
import trio

from eigen.node.attested import Attested, signs
from eigen.node.audit import AuditFailed, Auditor
from eigen.node.evidence_log import VALIDATORS_SAY, EvidenceLog, round_of
from eigen.node.exchange import Exchange, PartsMissing
from eigen.node.fetch import ContentUnavailable
from eigen.node.gaps import Gaps, RoundUpdates
from eigen.node.gossip import Said
from eigen.node.head_sync import HeadSync
from eigen.node.lanes import Lanes
from eigen.node.ports import RequestRefused
from eigen.node.proofs import Proofs
from eigen.node.replay import NOT_REPLAYED, Replayer
from eigen.node.run_ports import RunPorts
from eigen.node.updates import NOT_MADE, Updates
from eigen.node.worker import WorkerError
from eigen.protocol.committee import CommitteeMachine, Promises
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Adopt,
    Adopted,
    Aggregate,
    Attest,
    Audit,
    Audited,
    Collect,
    Combine,
    Effect,
    Event,
    GroupArrived,
    MembershipChanged,
    Note,
    PartArrived,
    Penalize,
    Persist,
    Publish,
    Received,
    Repair,
    Replay,
    Replayed,
    ResultArrived,
    SeatOpened,
    SendGroup,
    SendPart,
    SendResult,
    SetTimer,
    Started,
    Step,
    StepFailed,
    Stepped,
    Suspected,
    TimerFired,
    Train,
    TrainAhead,
    Trained,
    TrainFailed,
)
from eigen.protocol.head import HeadMachine
from eigen.protocol.limits import READY_BEHIND_MAX
from eigen.protocol.messages import (
    Attempt,
    Attestation,
    Check,
    LocalWork,
    RoundRecord,
    StepNotice,
)
from eigen.protocol.requests import (
    GroupPush,
    HeadReply,
    Opening,
    OpeningQuery,
    PartPush,
    PartQuery,
    ResultPush,
    ResultQuery,
)
from eigen.protocol.trainer import TrainerMachine
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import encode
from eigen.training.errors import TrainingError

log = structlog.get_logger()

EVENTS_QUEUED_MAX = 4096
"""Events waiting for the machines; more than a round of the largest seat makes."""
HISTORY_ROUNDS = 256
"""Records kept in memory for `eigen runs`; all of them are in the record store."""
REPLAYS_SHOWN_MAX = 4096
"""Kept for `eigen proofs`; 200 bytes each."""
PATIENCE_S = 10.0
"""A pushed part waits so long for its author's commitment to arrive by gossip."""


OnAdopted = Callable[[RoundRecord, HeadReply], None]


class RunDriver:
    """One run on this node; `context.validators` and `trains` say in which roles."""

    def __init__(
        self,
        context: RunContext,
        ports: RunPorts,
        *,
        trains: bool,
        on_adopted: OnAdopted,
        head: HeadReply | None,
        promises: Promises | None,
        voted: frozenset[bytes],
        begun: Mapping[int, LocalWork] | None = None,
    ) -> None:
        me = ports.identity.address
        self.context = context
        self.ports = ports
        self.me = me
        self.head = HeadMachine(context, head.records[0] if head else None)
        self.trainer = TrainerMachine(context, me, self.head, voted, begun) if trains else None
        validates = me in context.validators
        self.committee = CommitteeMachine(context, me, self.head, promises) if validates else None
        self.exchange = Exchange(
            context, me, ports.network, ports.blobs, ports.worker, ports.blocks, ports.retention
        )
        self.updates = Updates(context, ports, self.exchange)
        self.auditor = Auditor(self.exchange, me, ports.network, ports.blobs, ports.worker)
        self.history: dict[int, RoundRecord] = {}
        self.notes: list[tuple[str, str]] = []
        self._on_adopted = on_adopted
        self._events_in, self._events = trio.open_memory_channel[Event](EVENTS_QUEUED_MAX)
        self._timers: dict[tuple[str, Attempt, int], trio.CancelScope] = {}
        self.evidence = EvidenceLog()
        self._attested = Attested()
        self.proofs = Proofs(context, ports, self.exchange, self.evidence)
        self.replayer = Replayer(context, ports, self.exchange)
        self.gaps = Gaps(context, ports)
        self.replayed: dict[Check, Replayed] = {}  # here, since the node started
        self._replaying: set[Check] = set()
        self.sync = HeadSync(
            context,
            ports,
            self.head,
            keep=self.proofs.keep,
            taken=self._head_taken,
            hear=self.hear,
        )
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def phase(self) -> str:
        """Where this node is in the round, in one word."""
        if self.head.finished:
            return "finished"
        if self.trainer is not None:
            return self.trainer.phase.value
        return self.committee.stage.value if self.committee else "following"

    # feeding --------------------------------------------------------------------------------------
    def post(self, event: Event) -> None:
        """Queue an event for the machines; drops it, loudly, where they are hopelessly behind."""
        try:
            self._events_in.send_nowait(event)
        except trio.WouldBlock:
            log.error("machine events dropped", run=self.context.run.hex()[:8], kind=type(event))
        except trio.BrokenResourceError:
            pass  # the node is shutting down

    def hear(self, said: Said) -> None:
        """A signed round message or attestation of this run."""
        if isinstance(said.message, Attestation):
            self._compare(said.author, said.message)
        late = isinstance(said.message, StepNotice)  # is for the next seat
        oldest = self.head.round - READY_BEHIND_MAX if late else self.head.round + 1
        if said in self.evidence or round_of(said.message) < oldest:
            return
        if isinstance(said.message, VALIDATORS_SAY) and said.author not in self.context.validators:
            return
        if round_of(said.message) > self.head.round:
            self.evidence.add(said)
        self.post(Received(said.author, said.message))

    def _compare(self, validator: Address, attestation: Attestation) -> None:
        """An honest validator signs one statement a round, also once the round is over."""
        signed = self.sync.signed_digest(attestation)
        if validator not in self.context.validators or not signs(validator, signed, attestation):
            return
        first = self._attested.add(validator, attestation)
        if first is not None:
            log.warning("a validator signed two statements", validator=validator.hex())
            self.ports.accuse(first, attestation)

    async def run(self) -> None:
        """Until cancelled. Work under way is cancelled with it; promises are on disk."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._lanes = Lanes(
                self.ports.network,
                self.context.run,
                self.context.deadlines.inputs_s,
                self.ports.upload,
                nursery,
            )
            self.post(Started())
            async for event in self._events:
                await self._handle(event)

    async def _handle(self, event: Event) -> None:
        if isinstance(event, Adopted):
            if event.record.attempt.round <= self.head.round:
                return
            self._finish_round(event.record)
            await self.updates.forget_before(event.record.attempt.round)
            await self.proofs.forget(event.record)
            self.gaps.adopted(event.record)
        now, watch = trio.current_time(), self.ports.watch
        watch(self.me, event)
        for machine in (self.head, self.trainer, self.committee):
            if machine is not None:
                for effect in machine.handle(event, now):
                    watch(self.me, effect)
                    await self._perform(effect)
        if isinstance(event, Adopted):
            # What came while the head was rounds behind meant nothing to the machines then.
            for said in self.evidence:
                self.post(Received(said.author, said.message))
        self._changed.set()
        self._changed = trio.Event()

    def _finish_round(self, record: RoundRecord) -> None:
        self.exchange.carry_on(record)
        self.history[record.attempt.round] = record
        self.history.pop(record.attempt.round - HISTORY_ROUNDS, None)
        self.evidence.forget_through(record.attempt.round)
        for key in [k for k in self._timers if k[1].round <= record.attempt.round]:
            if key[0] != "repair":
                self._timers.pop(key).cancel()
        self.exchange.forget_through(record.attempt.round)

    # effects --------------------------------------------------------------------------------------
    async def _perform(self, effect: Effect) -> None:
        soon = self._soon
        match effect:
            case Publish(message=message):
                envelope = await self.ports.gossip.publish(message)
                self.evidence.add(Said(self.me, message, envelope))
            case Persist(kind=kind, key=key, value=value):
                await self.ports.records.commit([(kind, key, value)])
            case SetTimer(name=name, attempt=attempt, at_s=at_s, part=part):
                self._set_timer(TimerFired(name, attempt, part), at_s)
            case Penalize(peer=peer, points=points, reason=reason):
                self.ports.network.penalize(peer, points, reason)
            case Note(event=what, attempt=attempt, detail=detail):
                log.info(what, run=attempt.run.hex()[:8], round=attempt.round, detail=detail)
                self.notes = [*self.notes[-63:], (what, detail)]
            case Train():
                soon(self._train, effect)
            case TrainAhead():
                soon(self.updates.begin, effect)
            case SendPart(attempt=attempt, part=part, owner=owner, reserve=reserve):
                make = partial(self.exchange.part_for, attempt, part)
                self._lanes.post(owner, make, reserve=reserve)
            case Aggregate():
                soon(self._aggregate, partial(self.exchange.aggregate, effect), effect.part)
            case Collect():
                soon(self._aggregate, partial(self.exchange.collect, effect), effect.part)
            case Combine():
                soon(self._aggregate, partial(self.exchange.combine, effect), effect.part)
            case SendGroup(owner=owner):
                self._lanes.post(owner, partial(self.exchange.group_for, effect))
            case SendResult(members=members):
                for member in members:
                    self._lanes.post(member, partial(self.exchange.result_for, effect))
            case Step():
                soon(self._step, effect)
            case Audit():
                soon(self._audit, effect)
            case Replay(check=check):
                soon(self._replay, check)
            case Attest(record=record):
                await self._attest(record)
            case Adopt():
                soon(self.sync.adopt, effect, self.evidence.record(effect.record))
            case Repair():
                soon(self.sync.repair)
            case SeatOpened(seat=seat):
                spec = self.context.course.of(seat.attempt).spec
                validators = self.context.validators
                soon(self.ports.datasets.grant_seat, spec.dataset, seat.members, validators)

    def _soon(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Do it beside the machines. A fault in it costs this effect, not the node: the machines'
        deadlines see to the rest."""
        assert self._nursery is not None
        self._nursery.start_soon(self._guarded, work, arguments)

    async def _guarded(
        self, work: Callable[..., Awaitable[None]], arguments: tuple[object, ...]
    ) -> None:
        try:
            await work(*arguments)
        except Exception:
            log.exception("an effect failed", run=self.context.run.hex()[:8])

    def _set_timer(self, fired: TimerFired, at_s: float) -> None:
        assert self._nursery is not None
        key = (fired.name, fired.attempt, fired.part)
        if (old := self._timers.pop(key, None)) is not None:
            old.cancel()
        if fired.attempt.round <= self.head.round and fired.name != "repair":
            return
        scope = self._timers[key] = trio.CancelScope()

        async def wait() -> None:
            with scope:
                await trio.sleep_until(at_s)
                self._timers.pop(key, None)
                self.post(fired)

        self._nursery.start_soon(wait)

    async def _train(self, effect: Train) -> None:
        attempt = effect.attempt
        try:
            made = await self.updates.make(effect)
        except NOT_MADE as error:
            self.post(TrainFailed(attempt, str(error)))
        else:
            self.post(Trained(attempt, made))

    async def _aggregate(self, work: Callable[[], Awaitable[Event]], part: int) -> None:
        try:
            self.post(await work())
        except (ContentUnavailable, TrainingError, WorkerError) as error:
            log.warning("a part could not be aggregated", part=part, why=str(error))

    async def _step(self, effect: Step) -> None:
        try:
            checkpoint = await self.exchange.step(effect)
        except (PartsMissing, ContentUnavailable, TrainingError, WorkerError) as error:
            self.post(StepFailed(effect.attempt, str(error)))
        else:
            self.post(Stepped(effect.attempt, checkpoint))

    async def _audit(self, effect: Audit) -> None:
        attempt = effect.seat.attempt
        updates = RoundUpdates(effect.seat) if self.gaps.wanted else None
        try:
            self.post(await self.auditor.audit(effect, updates.add if updates else None))
        except (
            AuditFailed,
            PartsMissing,
            ContentUnavailable,
            TrainingError,
            WorkerError,
        ) as error:
            suspects = error.suspects if isinstance(error, AuditFailed) else ()
            self.post(Audited(attempt, Cid(""), (), str(error), suspects))
            return
        if updates is not None:
            self.post(Suspected(await self.gaps.suspects(updates)))

    async def _replay(self, check: Check) -> None:
        """Once at a time: the machine asks again each round, and a replay may take several."""
        if check in self._replaying:
            return
        self._replaying.add(check)
        try:
            shown = await self.replayer.replay(check)
            self.replayed[check] = shown
            if len(self.replayed) > REPLAYS_SHOWN_MAX:
                del self.replayed[next(iter(self.replayed))]
            self.post(shown)
        except NOT_REPLAYED as error:
            log.info("a round cannot be replayed yet", round=check.round, why=str(error))
        finally:
            self._replaying.discard(check)

    async def _attest(self, record: RoundRecord) -> None:
        attestation = self.sync.attestation(record)
        envelope = await self.ports.gossip.publish(attestation)
        self.hear(Said(self.me, attestation, envelope))

    def _head_taken(self, reply: HeadReply) -> None:
        self.post(Adopted(reply.records[0]))
        self._on_adopted(reply.records[0], reply)

    # serving --------------------------------------------------------------------------------------
    async def take(self, sender: Address, message: PartPush | GroupPush | ResultPush) -> None:
        """What a member's lane brought; what is late or too long is passed over.

        Raises `RequestRefused` where the rest of that lane is not wanted either.
        """
        if message.attempt.round <= self.head.round or not self.exchange.fits(message, sender):
            return
        if isinstance(message, PartPush):
            await self._take_part(sender, message)
        elif self._wanted(sender, message):
            named = self.exchange.keep_result(message, sender)
            came = ResultArrived if isinstance(message, ResultPush) else GroupArrived
            self.post(came(sender, message.attempt, message.part, named))

    async def _take_part(self, sender: Address, push: PartPush) -> None:
        """A trainer's part; waits until this node knows the commitment that it must match."""
        trainer = self.trainer
        if trainer is None:
            raise RequestRefused("this node does not train in the run")
        with trio.move_on_after(PATIENCE_S):
            while trainer.attempt != push.attempt or trainer.commitment_of(sender) is None:
                if push.attempt.round <= self.head.round:
                    return
                await self._changed.wait()
        made = trainer.commitment_of(sender)
        if trainer.attempt != push.attempt or made is None:
            raise RequestRefused("no commitment of yours is known here")
        matches = self.exchange.proves(push, made)
        if matches:
            self.exchange.keep_input(sender, push)
        root = made.parts_root if matches else Digest(bytes(32))
        self.post(PartArrived(sender, push.attempt, push.part, root))

    def _wanted(self, sender: Address, push: GroupPush | ResultPush) -> bool:
        """Whether an aggregate is of the round in progress; raises `RequestRefused`."""
        members = self.trainer.members if self.trainer else ()
        if push.attempt.round != self.head.round + 1 or (self.trainer and not members):
            return False  # it may be asked for by its digest later
        if sender not in members:
            raise RequestRefused("not seated together in this round")
        return True

    def shows_parts_to(self, peer: Address) -> bool:
        """Validators audit. So may who is seated, where updates tell of no private data."""
        if peer in self.context.validators:
            return True
        seated = self.trainer is not None and peer in self.trainer.members
        return seated and not self.context.course.ever_sealed

    async def serve_part(self, query: PartQuery) -> bytes:
        """See `Exchange.serve_part`; of a round that is over, a part that is replayed."""
        try:
            return self.exchange.serve_part(query)
        except RequestRefused as refusal:
            try:
                return encode(await self.proofs.part(query))
            except RequestRefused:
                raise refusal from None

    async def open_residuals(self, query: OpeningQuery) -> Opening:
        """See `Proofs.opening`; waits until this node knows that the round is over, as peers do."""
        with trio.move_on_after(PATIENCE_S):
            while self.head.round < query.round:
                await self._changed.wait()
        return await self.proofs.opening(query)

    def serve_result(self, query: ResultQuery) -> bytes:
        """See `Exchange.serve_result`."""
        return self.exchange.serve_result(query)

    def seatable(self, trainers: tuple[Address, ...], uploads: tuple[int, ...]) -> None:
        """Tell the machines which trainers are here, and what they say of their lines."""
        self.post(MembershipChanged(trainers, uploads))
