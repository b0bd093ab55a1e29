"""Signed gossip between real hosts: what is forged, foreign or malformed stops at the first node.

Alice is the victim, Mallory sends her raw bytes, Carol sits behind Alice and must hear nothing bad.
"""

import dataclasses
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from service_peers import NETWORK_ID, Peer, host, peers, until

from eigen.crypto.envelope import sign_envelope
from eigen.crypto.identity import Identity
from eigen.node.gossip import TOPIC_OF, TYPES, Gossip, Said
from eigen.node.libp2p.network import Libp2pNetwork
from eigen.node.ports import Verdict
from eigen.protocol.cid import raw_cid
from eigen.protocol.messages import (
    Attempt,
    DatasetAnnouncement,
    Envelope,
    SeatVote,
    StepNotice,
    Topic,
)
from eigen.protocol.types import Digest, RunId
from eigen.protocol.wire import decode, encode

NOTICE = StepNotice(Attempt(RunId(bytes(32)), 1, 0), raw_cid(b"checkpoint"))
VOTE = SeatVote(Attempt(RunId(bytes(32)), 1, 0), Digest(bytes(32)))


def signed(
    author: Identity, message: object, *, network: str = NETWORK_ID, topic: str = ""
) -> bytes:
    where = topic or TOPIC_OF[type(message)]
    return encode(sign_envelope(author, network, where, encode(message)))


def name(topic: Topic) -> str:
    return f"/eigen/{NETWORK_ID}/{topic}/1"


@dataclasses.dataclass
class Stage:
    mallory: Libp2pNetwork
    alice: Libp2pNetwork
    carol: Peer
    gossip: Gossip
    heard: list[Said]
    heard_by_carol: list[Said]

    async def send(self, topic: Topic, data: bytes) -> None:
        await self.mallory.publish(name(topic), data)

    @property
    def score(self) -> float:
        return self.alice.score(self.mallory.local)


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    async with peers(folder, 2) as (alice, carol), trio.open_nursery() as nursery:
        heard: list[Said] = []
        heard_by_carol: list[Said] = []

        async def hear(said: Said) -> None:
            heard.append(said)

        async def carol_hears(said: Said) -> None:
            heard_by_carol.append(said)

        for kind in (StepNotice, SeatVote):
            alice.gossip.on(kind, hear)
            carol.gossip.on(kind, carol_hears)
        mallory = host(Identity.generate())
        for topic in Topic:

            async def ignore(_peer: object, _data: bytes) -> None: ...

            mallory.subscribe(name(topic), lambda *_: Verdict.ACCEPT, ignore)
        await nursery.start(mallory.run)
        await mallory.connect(alice.network.listen_addrs()[0], timeout_s=5)
        await trio.sleep(0.5)  # the mesh forms
        yield Stage(mallory, alice.network, carol, alice.gossip, heard, heard_by_carol)
        nursery.cancel_scope.cancel()


def forged() -> bytes:
    whole = sign_envelope(Identity.generate(), NETWORK_ID, Topic.ROUNDS, encode(NOTICE))
    return encode(Envelope(whole.payload, b"\x01" * 65))


MESSAGES = {
    "signature of nobody": (Topic.ROUNDS, forged()),
    "type of another topic": (
        Topic.ROUNDS,
        signed(Identity.generate(), DatasetAnnouncement(raw_cid(b"m")), topic=Topic.ROUNDS),
    ),
    "no envelope": (Topic.ROUNDS, encode(NOTICE)),
    "malformed bytes": (Topic.ROUNDS, secrets.token_bytes(300)),
    "nothing": (Topic.ROUNDS, b""),
    "payload of no type": (
        Topic.ROUNDS,
        encode(sign_envelope(Identity.generate(), NETWORK_ID, Topic.ROUNDS, b"\x91\xcc\xc8")),
    ),
    "trailing bytes": (Topic.ROUNDS, signed(Identity.generate(), NOTICE) + b"\x00"),
}


@pytest.mark.parametrize("what", MESSAGES)
async def test_what_no_honest_node_says_is_rejected_and_costs_its_sender(
    tmp_path: Path, what: str
) -> None:
    async with stage(tmp_path) as at:
        topic, data = MESSAGES[what]
        await at.send(topic, data)
        await until(lambda: at.score < 0)
        author = Identity.generate()
        await at.send(Topic.ROUNDS, signed(author, VOTE))
        await until(lambda: at.heard and at.heard_by_carol)
        assert [said.message for said in at.heard] == [VOTE], "only the honest one"
        assert [said.message for said in at.heard_by_carol] == [VOTE], "and it alone went on"
        assert at.heard[0].author == author.address, "the author, not who passed it on"


async def test_a_signature_for_another_network_or_topic_names_somebody_else() -> None:
    """Recovery gives some address for any digest: never the author's, so nothing is held by it."""
    author = Identity.generate()
    network = host(Identity.generate())
    gossip = Gossip(Identity.generate(), network, NETWORK_ID)
    good = gossip.open(Topic.ROUNDS, signed(author, NOTICE))
    assert good.author == author.address
    other_network = gossip.open(Topic.ROUNDS, signed(author, NOTICE, network="mainnet"))
    other_topic = gossip.open(Topic.ROUNDS, signed(author, NOTICE, topic=Topic.BALLOTS))
    assert other_network.author != author.address
    assert other_topic.author != author.address
    assert other_network.author != other_topic.author


async def test_the_check_of_a_type_decides_whether_a_message_goes_on(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        verdicts = {VOTE: Verdict.ACCEPT}
        asked: list[object] = []

        def check(said: Said) -> Verdict:
            asked.append(said.message)
            return verdicts.get(said.message, Verdict.IGNORE)

        async def hear(said: Said) -> None:
            at.heard.append(said)

        for kind in (StepNotice, SeatVote):
            at.gossip.on(kind, hear, check)
        author = Identity.generate()
        await at.send(Topic.ROUNDS, signed(author, NOTICE))
        await until(lambda: NOTICE in asked)
        assert at.score == 0, "ignored: nobody is blamed"
        verdicts[VOTE] = Verdict.REJECT
        await at.send(Topic.ROUNDS, signed(author, VOTE))
        await until(lambda: at.score < 0)
        assert at.heard == at.heard_by_carol == []


async def test_who_sends_rubbish_is_not_listened_to_any_more(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        author = Identity.generate()
        for _ in range(5):
            await at.send(Topic.BALLOTS, secrets.token_bytes(100))
        await until(lambda: at.score <= -30)
        await at.send(Topic.ROUNDS, signed(author, VOTE))
        await trio.sleep(0.5)
        assert at.heard == []
        await at.carol.gossip.publish(NOTICE)
        await until(lambda: at.heard)
        assert [said.author for said in at.heard] == [at.carol.address], "others are heard"


@settings(max_examples=200, deadline=None)
@given(topic=st.sampled_from(list(Topic)), data=st.binary(max_size=300), tail=st.booleans())
def test_the_validator_is_total(topic: Topic, data: bytes, tail: bool) -> None:
    network = host(Identity.generate())
    validate = Gossip(Identity.generate(), network, NETWORK_ID)._validator(topic)
    body = encode(Envelope(data, bytes(65))) if tail else data
    assert validate(network.local, body) is Verdict.REJECT


def test_every_type_has_one_topic() -> None:
    assert sum(len(kinds) for kinds in TYPES.values()) == len(TOPIC_OF)


async def test_evidence_is_read_again_by_its_type(tmp_path: Path) -> None:
    author = Identity.generate()
    gossip = Gossip(Identity.generate(), host(Identity.generate()), NETWORK_ID)
    envelope = decode(signed(author, NOTICE), Envelope)
    said = gossip.read_any(envelope)
    assert (said.author, said.message, said.envelope) == (author.address, NOTICE, envelope)
