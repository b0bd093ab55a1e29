"""What the driver of a run needs of its node."""

from dataclasses import dataclass, field

from eigen.chain.port import Chain
from eigen.crypto.identity import Identity
from eigen.node.datasets import Datasets
from eigen.node.fetch import BlockExchange
from eigen.node.gossip import Gossip
from eigen.node.ports import BlobStore, BulkNetwork, RecordStore
from eigen.node.retention import Retention
from eigen.node.states import StateFiles
from eigen.node.upload import UploadMeter
from eigen.node.worker import TrainingWorker


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
    worker: TrainingWorker
    chain: Chain
    retention: Retention
    states: StateFiles
    upload: UploadMeter = field(default_factory=UploadMeter)
