"""Gossipsub 1.1's peer score: what each peer is worth in the mesh. Does no I/O.

`gossipsub-v1.1.md`, "Peer Scoring". P3 (too few deliveries in the mesh) is left out, as it punishes
quiet topics; P6 (many peers on one address) is left to the connection limits. P5 is this node's own
opinion of a peer, `reputation.Reputation`.
"""

from dataclasses import dataclass, field
from typing import Final

# Weights: what one unit of each counter is worth.
TIME_IN_MESH_WEIGHT: Final = 0.01
"""P1: 0.01 a second, at most 1: staying is worth a little."""
TIME_IN_MESH_MAX_S: Final = 100.0
FIRST_DELIVERY_WEIGHT: Final = 0.5
"""P2: being first with a message, at most 10 points."""
FIRST_DELIVERIES_MAX: Final = 20.0
FIRST_DELIVERY_DECAY: Final = 0.98
"""A heartbeat; half is left after 34 s."""
INVALID_WEIGHT: Final = -10.0
"""P4: invalid messages, squared: two cost 40."""
INVALID_DECAY: Final = 0.995
"""Half is left after 140 s."""
REPUTATION_WEIGHT: Final = 1.0
"""P5: points of `Reputation`, zero or less."""
BEHAVIOUR_WEIGHT: Final = -5.0
"""P7: broken promises and grafts during a backoff, squared above the threshold."""
BEHAVIOUR_THRESHOLD: Final = 2.0
BEHAVIOUR_DECAY: Final = 0.98
NEGLIGIBLE: Final = 0.01

# Thresholds: what a score below means.
GOSSIP_THRESHOLD: Final = -10.0
"""No IHAVE is sent to the peer, and none of its own is followed."""
PUBLISH_THRESHOLD: Final = -30.0
"""Own messages are not sent to it outside the mesh."""
GRAYLIST_THRESHOLD: Final = -60.0
"""Its RPCs are not even read."""
OPPORTUNISTIC_THRESHOLD: Final = 1.0
"""A mesh whose median is below looks for better peers."""


@dataclass(slots=True)
class TopicScore:
    """Counters of one peer in one topic."""

    grafted_at_s: float | None = None
    first_deliveries: float = 0.0
    invalid: float = 0.0

    def value(self, now_s: float) -> float:
        """P1 + P2 + P4."""
        in_mesh_s = 0.0 if self.grafted_at_s is None else now_s - self.grafted_at_s
        return (
            TIME_IN_MESH_WEIGHT * min(in_mesh_s, TIME_IN_MESH_MAX_S)
            + FIRST_DELIVERY_WEIGHT * self.first_deliveries
            + INVALID_WEIGHT * self.invalid**2
        )


@dataclass(slots=True)
class PeerScore:
    """Counters of one peer."""

    topics: dict[str, TopicScore] = field(default_factory=dict)
    behaviour: float = 0.0

    def topic(self, name: str) -> TopicScore:
        """Counters of a topic; made when first needed, for topics of this node only."""
        return self.topics.setdefault(name, TopicScore())

    def delivered_first(self, topic: str) -> None:
        """The peer was the first to bring a valid message."""
        counters = self.topic(topic)
        counters.first_deliveries = min(FIRST_DELIVERIES_MAX, counters.first_deliveries + 1)

    def value(self, reputation: float, now_s: float) -> float:
        """The whole score."""
        excess = max(0.0, self.behaviour - BEHAVIOUR_THRESHOLD)
        return (
            sum(counters.value(now_s) for counters in self.topics.values())
            + REPUTATION_WEIGHT * reputation
            + BEHAVIOUR_WEIGHT * excess**2
        )

    def decay(self) -> None:
        """A heartbeat has passed."""
        self.behaviour = _faded(self.behaviour * BEHAVIOUR_DECAY)
        for counters in self.topics.values():
            counters.first_deliveries = _faded(counters.first_deliveries * FIRST_DELIVERY_DECAY)
            counters.invalid = _faded(counters.invalid * INVALID_DECAY)


def _faded(value: float) -> float:
    return value if value > NEGLIGIBLE else 0.0
