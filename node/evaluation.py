"""Evaluation: each new checkpoint against the held-out set, for people to see. Pays nobody."""

import structlog
import trio

from eigen.node.driver import RunDriver
from eigen.node.fetch import ContentUnavailable
from eigen.node.run_ports import RunPorts
from eigen.node.worker import WorkerError
from eigen.protocol.messages import NO_DIGEST, RoundRecord
from eigen.protocol.types import Cid, Digest, RunId
from eigen.protocol.wire import WireError
from eigen.training.errors import TrainingError
from eigen.training.results import Evaluation

log = structlog.get_logger()

QUEUED_MAX = 64
"""Checkpoints waiting; older ones are skipped when rounds are faster than evaluation."""


class Evaluations:
    """Figures by run and round; round 0 is the model before training."""

    def __init__(self, ports: RunPorts, *, enabled: bool) -> None:
        self._ports = ports
        self._enabled = enabled
        self._queue_in, self._queue = trio.open_memory_channel[tuple[RunDriver, int, Cid, Digest]](
            QUEUED_MAX
        )
        self.figures: dict[RunId, dict[int, Evaluation]] = {}

    def opened(self, driver: RunDriver) -> None:
        """A run starts here: evaluate what it starts from."""
        self._add(driver, 0, Cid(driver.context.genesis), NO_DIGEST)

    def adopted(self, driver: RunDriver, record: RoundRecord) -> None:
        """A round ended: evaluate its checkpoint."""
        self._add(driver, record.attempt.round, record.checkpoint, record.spec)

    def _add(self, driver: RunDriver, number: int, checkpoint: Cid, spec: Digest) -> None:
        if self._enabled:
            try:
                self._queue_in.send_nowait((driver, number, checkpoint, spec))
            except trio.WouldBlock:
                log.info("evaluation skipped", round=number)

    async def run(self) -> None:
        """Evaluate until cancelled, one checkpoint at a time."""
        async for driver, number, cid, name in self._queue:
            terms = driver.context.course.named(name)
            spec = terms.spec if terms else driver.context.spec
            try:
                checkpoint = await self._ports.blocks.fetch(cid)
                holdout = await self._ports.datasets.holdout(spec.dataset)
                figures = await self._ports.worker.evaluate(spec, checkpoint, holdout)
            except (ContentUnavailable, WireError, TrainingError, WorkerError) as error:
                log.warning("evaluation failed", round=number, why=str(error))
                continue
            self.figures.setdefault(driver.context.run, {})[number] = figures
            log.info(
                "evaluated",
                round=number,
                loss=round(figures.loss, 4),
                accuracy=round(figures.accuracy, 4),
            )
