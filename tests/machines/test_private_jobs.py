"""Owner and trainers of a private job on a heap of virtual time: everybody well, then not."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from eigen.protocol import job_effects as je
from eigen.protocol.cid import raw_cid
from eigen.protocol.job_owner import JobOwner
from eigen.protocol.job_pay import job_payouts
from eigen.protocol.job_sums import BadSums, covered
from eigen.protocol.job_trainer import JobTrainer
from eigen.protocol.messages import Envelope, ShardInfo
from eigen.protocol.private_job import (
    JobContribution,
    JobProgress,
    JobQuestion,
    JobSeat,
    PartialSum,
    PrivateJob,
    children,
    height,
    parent,
)
from eigen.protocol.types import Address, Cid

ID = bytes(32)
OWNER = Address(bytes([99]) * 20)
ENVELOPE = Envelope(b"", bytes(65))
NEW = JobProgress(ID, 0, 0, ())


def name(index: int) -> Address:
    return Address(bytes([index + 1]) * 20)


def job(shards: int, rounds: int = 3) -> PrivateJob:
    held = tuple(ShardInfo(raw_cid(bytes([i])), 1, 1) for i in range(shards))
    return PrivateJob(OWNER, "j", 0, 8, 4, 1, True, raw_cid(b"k"), held, rounds, 20, 500, 7)


@dataclass
class World:
    """Blobs are CIDs of the sets of shards that they would hold; `dead` peers say nothing."""

    shards: int
    trainers: int
    rounds: int = 3
    dead: set[Address] = field(default_factory=set)
    refuse: Callable[[je.OpenSums], je.SumsRefused | None] = lambda _: None
    progress: JobProgress = NEW
    made: dict[Cid, frozenset[int]] = field(default_factory=dict)
    stepped: list[int] = field(default_factory=list)
    blamed: list[Address] = field(default_factory=list)
    computed: list[tuple[Address, int]] = field(default_factory=list)
    lost: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.job = job(self.shards, self.rounds)
        self.owner = JobOwner(self.job, self.progress)
        self.peers = {name(i): JobTrainer(self.job, name(i)) for i in range(self.trainers)}
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, delay_s: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + delay_s, next(self._order), work))

    def run(self, until_s: float = 1e6) -> None:
        self.to_owner(je.TrainersPresent(tuple(self.peers)))
        self.perform_owner(self.owner.start())
        while self._heap and self.owner.ended is None and self.now < until_s:
            self.now, _, work = heapq.heappop(self._heap)
            work()

    def blob(self, shards: frozenset[int]) -> Cid:
        cid = raw_cid(bytes(sorted(shards)) + bytes([self.owner.round]))
        self.made[cid] = shards
        return cid

    def to_owner(self, event: je.OwnerEvent) -> None:
        self.perform_owner(self.owner.handle(event, self.now))

    def to(self, peer: Address, event: je.TrainerEvent) -> None:
        if peer not in self.dead:
            for effect in self.peers[peer].handle(event, self.now):
                self.perform(peer, effect)

    def perform_owner(self, effects: list[je.OwnerEffect]) -> None:
        for effect in effects:
            match effect:
                case je.AskWeights(round=r):
                    ready = je.WeightsReady(r, raw_cid(b"w" + bytes([r])), 1.2, int(self.now * 1e3))
                    self.after(0.1, lambda ready=ready: self.to_owner(ready))
                case je.SendQuestion(trainer=peer, question=q) if not self.lost():
                    self.after(0.05, lambda p=peer, q=q: self.to(p, je.QuestionHeard(q)))
                case je.OpenSums():
                    self.after(0.1, lambda o=self.owner, e=effect: self.open(o, e))
                case je.Wake(at_s=at, serial=serial):
                    self.after(at - self.now, lambda s=serial: self.to_owner(je.Woken(s)))
                case je.Blame(peer=peer):
                    self.blamed.append(peer)

    def open(self, owner: JobOwner, effect: je.OpenSums) -> None:
        if owner is not self.owner:
            return  # it was killed meanwhile
        refused = self.refuse(effect)
        if refused is not None:
            self.to_owner(refused)
            return
        held = [self.made[sums[0].sum.total] for sums in effect.parts]
        assert sorted(s for part in held for s in part) == list(range(self.shards)), "each once"
        assert sum(count for _, count in effect.credits) == self.shards
        self.stepped.append(effect.round)
        self.to_owner(je.Stepped(effect.round, effect.round == self.rounds))

    def perform(self, me: Address, effect: je.TrainerEffect) -> None:
        match effect:
            case je.ComputeOwn(question=q, shards=shards):
                self.computed.append((me, q.round))
                own = self.blob(frozenset(shards))
                self.after(1.0, lambda: self.to(me, je.OwnReady(q.serial, own)))
            case je.AddUp(question=q, own=own, inputs=inputs):
                total = self.made[own].union(*(self.made[cid] for _, cid in inputs))
                assert len(total) == sum(len(self.made[c]) for c in (own, *(i for _, i in inputs)))
                ready = je.TotalReady(q.serial, self.blob(total))
                self.after(0.2, lambda: self.to(me, ready))
            case je.PushSum(to=to, sum=made, below=below):
                heard = je.SumsHeard(me, (je.Signed(me, made, ENVELOPE), *below))
                self.after(0.05, lambda: self.deliver(me, to, heard))
            case je.Wake(at_s=at, serial=serial):
                self.after(at - self.now, lambda: self.to(me, je.Woken(serial)))
            case je.Blame(peer=peer):
                self.blamed.append(peer)

    def deliver(self, me: Address, to: Address, heard: je.SumsHeard) -> None:
        serial = heard.sums[0].sum.serial
        if self.lost():
            self.to(me, je.PushFailed(serial, to))
        elif to == OWNER:
            self.to_owner(heard)
        elif to in self.dead or not self.peers[to].takes(serial):
            self.to(me, je.PushFailed(serial, to))
        else:
            self.to(to, heard)


@pytest.mark.parametrize(("shards", "trainers"), [(1, 1), (4, 4), (7, 7), (8, 3), (3, 8), (32, 32)])
def test_every_shard_goes_into_each_step_once(shards: int, trainers: int) -> None:
    world = World(shards, trainers)
    world.run()
    assert world.stepped == [1, 2, 3]
    assert world.owner.ended == je.EndJob(True, "trained in 3 rounds")
    assert not world.blamed
    assert sum(world.owner.contributions.values()) == 3 * shards
    busy = [list(world.computed).count((name(i), 2)) for i in range(trainers)]
    assert sum(busy) == min(shards, trainers), "one computation a trainer and round"


@pytest.mark.parametrize("victim", range(7))
def test_a_trainer_that_dies_costs_its_own_shard_a_second_question(victim: int) -> None:
    """Wherever it sits: at the root, in the middle or a leaf; what others summed is used."""
    world = World(7, 7)
    world.after(1.0, lambda: world.dead.add(name(victim)))
    world.run()
    assert world.stepped == [1, 2, 3]
    fired = [who for who, _ in world.computed if who == name(victim)]
    assert len(fired) == 1, "it had begun"
    assert name(victim) not in world.owner.contributions or world.owner.ended is not None
    first_round = [who for who, round_ in world.computed if round_ == 1]
    assert len(first_round) == 8, "seven, and one more for what was missing"


def test_a_killed_trainer_that_comes_back_answers_the_question_sent_again() -> None:
    world = World(2, 2)

    def kill() -> None:
        world.dead.add(name(0))

    def back() -> None:
        world.dead.discard(name(0))
        world.peers[name(0)] = JobTrainer(world.job, name(0))

    world.after(0.5, kill)
    world.after(2.0, back)
    world.run()
    assert world.stepped == [1, 2, 3]
    assert world.owner.contributions == {name(0): 3, name(1): 3}
    assert world.now < 20


def test_a_trainer_whose_computation_failed_begins_again_when_it_is_asked_again() -> None:
    world = World(1, 1)
    world.run(until_s=0.2)
    [asked] = world.owner._questions.values()
    machine = JobTrainer(world.job, name(0))
    first, _ = machine.handle(je.QuestionHeard(asked), 0.0)
    assert machine.handle(je.QuestionHeard(asked), 1.0) == [], "it is at work"
    assert machine.handle(je.WorkFailed(asked.serial, "no blob"), 2.0) == []
    assert machine.handle(je.QuestionHeard(asked), 3.0) == [first]


def test_an_owner_that_was_killed_goes_on_from_its_last_step() -> None:
    world = World(4, 4)
    world.run(until_s=3.0)
    assert world.owner.ended is None
    done = len(world.stepped)
    assert 0 < done < 3
    kept = tuple(JobContribution(t, n, False) for t, n in world.owner.contributions.items())
    world.progress = JobProgress(ID, world.owner.round, world.owner.serial, kept)
    world.owner = JobOwner(world.job, world.progress)
    world._heap.clear()
    world.run()
    assert world.stepped == [1, 2, 3]
    assert sum(world.owner.contributions.values()) == 12


def test_an_owner_that_was_killed_after_its_last_step_asks_for_nothing_more() -> None:
    owner = JobOwner(job(2, rounds=3), JobProgress(ID, 3, 9, ()))
    assert owner.start() == [je.EndJob(True, "trained in 3 rounds")]


def test_a_false_trainer_is_asked_no_more() -> None:
    world = World(3, 3, refuse=lambda e: world_refusal(world, e))
    world.run()
    assert world.stepped == [1, 2, 3]
    assert world.owner.excluded == {name(1)}
    assert (name(1), 2) not in world.computed


def world_refusal(world: World, effect: je.OpenSums) -> je.SumsRefused | None:
    credited = dict(effect.credits)
    if name(1) in credited:
        return je.SumsRefused(effect.round, "no such gradient", (name(1),))
    return None


def test_who_refuses_is_asked_again_after_all_others() -> None:
    world = World(2, 3)
    world.to_owner(je.TrainersPresent((name(0), name(1), name(2))))
    world.owner.handle(je.TrainerRefuses(name(0)), 0.0)
    world.run()
    assert world.stepped == [1, 2, 3]
    assert name(0) not in world.owner.contributions
    alone = World(1, 1)
    alone.owner.handle(je.TrainerRefuses(name(0)), 0.0)
    alone.run()
    assert alone.stepped == [1, 2, 3], "there is nobody else"


def test_without_trainers_it_waits_and_then_says_why_it_gives_up() -> None:
    world = World(2, 0)
    world.run(until_s=30)
    assert world.owner.ended is None
    assert world.owner.waiting == "no trainer is connected"
    world.run()
    assert world.owner.ended is not None
    assert not world.owner.ended.done
    assert "no trainer is connected, asked 21 times" in world.owner.ended.why


def test_a_cancelled_job_asks_for_nothing_more() -> None:
    world = World(2, 2)
    world.run(until_s=0.5)
    [end] = world.owner.handle(je.JobFailed("cancelled"), world.now)
    assert end == je.EndJob(False, "cancelled")
    assert world.owner.handle(je.TrainersPresent((name(0),)), 1.0) == []


def test_a_price_is_shared_by_work_and_never_exceeded() -> None:
    done = [JobContribution(name(i), count, i == 3) for i, count in enumerate((3, 1, 0, 5, 3))]
    shares = {p.account: p.cumulative for p in job_payouts(1000, reversed(done))}
    assert shares == {name(0): 428, name(1): 142, name(4): 428}
    assert list(shares) == sorted(shares)
    assert job_payouts(1000, ()) == ()
    assert job_payouts(1000, [JobContribution(name(0), 0, False)]) == ()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_dies_and_comes_back_each_shard_is_stepped_once(seed: int) -> None:
    """Trainers die and return without memory, messages are lost, the owner restarts."""
    draw = random.Random(seed)
    world = World(draw.randint(1, 9), draw.randint(1, 9), rounds=12)
    world.lost = lambda: draw.random() < 0.1
    faults: list[str] = []

    def kill() -> None:
        victim = draw.choice(list(world.peers))
        world.dead.add(victim)
        faults.append("killed")
        world.after(draw.uniform(1, 40), lambda: back(victim))

    def back(peer: Address) -> None:
        world.peers[peer] = JobTrainer(world.job, peer)
        world.dead.discard(peer)

    def restart() -> None:
        if world.owner.ended is None:
            old = world.owner
            kept = tuple(JobContribution(t, n, False) for t, n in old.contributions.items())
            world.owner = JobOwner(world.job, JobProgress(ID, old.round, old.serial, kept))
            faults.append("restarted")
            world.to_owner(je.TrainersPresent(tuple(world.peers)))
            world.perform_owner(world.owner.start())

    for _ in range(4):
        world.after(draw.uniform(0, 10), kill)
    world.after(draw.uniform(1, 10), restart)
    world.run()
    assert sorted(set(faults)) == ["killed", "restarted"]
    assert world.stepped == list(range(1, 13))
    assert world.owner.ended is not None
    assert world.owner.ended.done
    assert sum(world.owner.contributions.values()) == 12 * world.shards
    assert not world.blamed, "nobody lied"


# what does not hang together ----------------------------------------------------------------------
def question(seats: int = 3) -> JobQuestion:
    given = tuple(JobSeat(name(i), (i,)) for i in range(seats))
    return JobQuestion(ID, 1, 5, raw_cid(b"w"), 1.0, given, 20)


def signed(index: int, inputs: tuple[Cid, ...] = (), total: bytes | None = None) -> je.Signed:
    own = raw_cid(b"own%d" % index)
    made = PartialSum(ID, 1, 5, own, inputs, raw_cid(total) if total else own)
    return je.Signed(name(index), made, ENVELOPE)


def test_sums_of_a_tree_cover_what_their_makers_did() -> None:
    one, two = signed(1), signed(2)
    root = signed(0, (one.sum.total, two.sum.total), b"all")
    assert covered(question(), (root, one, two)) == {0, 1, 2}
    assert covered(question(), (one,)) == {1}


@pytest.mark.parametrize(
    ("sums", "said"),
    [
        ((signed(0), signed(1)), "in no other"),
        ((signed(1), signed(1)), "two sums"),
        ((signed(0, (raw_cid(b"x"),), b"t"), signed(1)), "nobody below"),
        ((signed(1, (raw_cid(b"own2"),), b"t"), signed(2)), "nobody below"),
        ((signed(0, (), b"other"),), "a total of one"),
        ((signed(7),), "without a seat"),
        ((replace(signed(0), sum=replace(signed(0).sum, serial=4)),), "another question"),
    ],
    ids=["unused", "twice", "invented", "sideways", "swapped", "stranger", "stale"],
)
def test_sums_that_do_not_hang_together_are_refused(sums: tuple[je.Signed, ...], said: str) -> None:
    with pytest.raises(BadSums, match=said):
        covered(question(), sums)


def test_who_hands_over_such_sums_is_blamed_by_owner_and_trainer() -> None:
    world = World(3, 3)
    world.run(until_s=0.2)
    asked = next(iter(world.owner._questions.values()))
    lie = PartialSum(ID, 1, asked.serial, raw_cid(b"a"), (), raw_cid(b"b"))
    sender = asked.seats[1].trainer
    heard = je.SumsHeard(sender, (je.Signed(sender, lie, ENVELOPE),))
    [blame] = world.owner.handle(heard, 0.2)
    assert isinstance(blame, je.Blame)
    root = world.peers[asked.seats[0].trainer]
    root.handle(je.QuestionHeard(asked), 0.2)
    [blame] = root.handle(heard, 0.2)
    assert isinstance(blame, je.Blame)
    assert root.handle(replace(heard, sender=name(9)), 0.2) == [
        je.Blame(name(9), "a sum that is not for this seat")
    ]


def test_the_tree_is_a_tree() -> None:
    for seats in range(1, 33):
        for index in range(seats):
            assert all(parent(child) == index for child in children(index, seats))
            above = parent(index)
            assert above is None or height(above, seats) > height(index, seats)
        assert sorted(c for i in range(seats) for c in children(i, seats)) == list(range(1, seats))
