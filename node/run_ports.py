"""What the driver of a run needs of its node."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random, SystemRandom

from eigen.chain.port import Chain
from eigen.crypto.identity import Identity
from eigen.node.datasets import Datasets
from eigen.node.fetch import BlockExchange
from eigen.node.gossip import Gossip
from eigen.node.ports import BlobStore, BulkNetwork, RecordStore, Trainer
from eigen.node.retention import Retention
from eigen.node.states import StateFiles
from eigen.node.upload import UploadMeter
from eigen.protocol.effects import Effect, Event
from eigen.protocol.messages import Attestation
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address
from eigen.training.calibration import DEFAULTS, Tolerance


def default_tolerance(spec: RunSpec) -> Tolerance:
    """Where nothing was measured."""
    return DEFAULTS[spec.inner.precision]


Watch = Callable[[Address, Event | Effect], None]
"""Sees each event that a node's machines are told, and each effect before it is performed. It must
not block, nor raise."""


def unwatched(_node: Address, _what: Event | Effect) -> None:
    """Nobody looks."""


Accuse = Callable[[Attestation, Attestation], None]
"""Told of two statements that one validator signed for one round. It must not block, nor raise."""


def nobody_told(_first: Attestation, _second: Attestation) -> None:
    """There is nobody who could punish it."""


@dataclass(frozen=True, slots=True)
class RunPorts:
    """What a run's driver needs of the node."""

    identity: Identity
    network: BulkNetwork
    gossip: Gossip
    records: RecordStore
    blobs: BlobStore
    blocks: BlockExchange
    datasets: Datasets
    worker: Trainer
    chain: Chain
    retention: Retention
    states: StateFiles
    upload: UploadMeter = field(default_factory=UploadMeter)
    random: Random = field(default_factory=SystemRandom)
    """Whom to ask, where several would do."""
    watch: Watch = unwatched
    tolerance: Callable[[RunSpec], Tolerance] = default_tolerance
    """By how much an honest replay may be off."""
    accuse: Accuse = nobody_told
