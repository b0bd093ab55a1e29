"""Nodes that lie: each rewrites the effects of an honest node, or the update that it trained.

What an adversary does to its update is in `learning`, which has the update; what it does with
messages is here. A hook sees each effect of a node before it is performed and says whether it took
the effect over.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from eigen.protocol.cid import raw_cid
from eigen.protocol.effects import Attest, Effect, Penalize, Publish, SendPart, SendResult, Train
from eigen.protocol.limits import ATTEMPTS_MAX
from eigen.protocol.messages import Commitment, PartResult, ResultVote, StepNotice
from eigen.protocol.types import Digest
from eigen.simulations.heap import HeapNetwork, VirtualNode

HONEST: Final = "honest"
SPAM: Final = 50
"""More than a peer has room for anywhere."""
FALSE: Final = Digest(b"\xfa" * 32)
"""A digest of nothing."""

Act = Callable[[HeapNetwork, VirtualNode, Effect], bool]
"""As `heap.Hook`, of nodes that behave so."""


def _equivocate(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
    """Two commitments, to different updates, in one attempt."""
    if isinstance(effect, Publish) and isinstance(effect.message, Commitment):
        network.gossip(node, replace(effect.message, parts_root=FALSE))
    return False


def _withhold(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
    """As an owner, hands out nothing."""
    return isinstance(effect, SendResult)


def _spoil(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
    """As an owner, hands out a result that does not follow from the inputs."""
    if not isinstance(effect, SendResult) or effect.result.digest == FALSE:
        return False
    wrong = PartResult(FALSE, effect.result.included)
    network.perform(node, replace(effect, result=wrong))
    return True


def _choose(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
    """Hands its parts and results to every second member only."""
    if isinstance(effect, SendPart):
        return effect.owner[-1] % 2 == 0
    if isinstance(effect, SendResult) and any(m[-1] % 2 == 0 for m in effect.members):
        chosen = tuple(m for m in effect.members if m[-1] % 2)
        network.perform(node, replace(effect, members=chosen))
        return True
    return False


def _idle(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
    """Takes its seat and never trains."""
    return isinstance(effect, Train)


def _attest_twice(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
    """As a validator, attests two roots for one round."""
    if isinstance(effect, Attest) and effect.record.payouts:
        network.perform(node, Attest(replace(effect.record, payouts=())))
    return False


def _mute(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
    """As a validator, never says anything; as a trainer, never votes."""
    votes = isinstance(effect, Publish) and isinstance(effect.message, ResultVote)
    return votes or (node.validator and isinstance(effect, Publish | Attest))


def _blame(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
    """Blames nobody, whatever it sees."""
    return isinstance(effect, Penalize)


def _spam(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
    """With each commitment, commits to `SPAM` later attempts and tells of as many checkpoints."""
    if isinstance(effect, Publish) and isinstance(effect.message, Commitment):
        at = effect.message.attempt
        for i in range(1, SPAM + 1):
            later = replace(at, number=min(at.number + i, ATTEMPTS_MAX))
            network.gossip(node, replace(effect.message, attempt=later))
            network.gossip(node, StepNotice(at, raw_cid(i.to_bytes(2, "big"))))
    return False


UPDATES: Final = (
    "sign-flip",
    "scaled",
    "noise",
    "zeros",
    "label-flip",
    "alie",
    "ipm",
    "copy",
    "stale",
)
"""What an adversary may do to its update; see `learning`. Without real training it changes nothing
but the digest."""

ACTS: Final[dict[str, Act]] = {
    "equivocating": _equivocate,
    "withholding-owner": _withhold,
    "spoiling-owner": _spoil,
    "selective-sender": _choose,
    "idle": _idle,
    "two-roots": _attest_twice,
    "mute": _mute,
    "silent-witness": _blame,
    "spam": _spam,
}
"""What an adversary may do to messages."""

ANSWERS: Final = ("lying-donor",)
"""What an adversary may do to who asks it for what it missed; see `tier1`."""

ADVERSARIES: Final = (*UPDATES, *ACTS, *ANSWERS)
"""Behaviours that a scenario may give to nodes."""
