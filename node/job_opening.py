"""Adding up what trainers handed to an owner, in the process that holds no secret."""

from collections.abc import Sequence
from pathlib import Path

from eigen.node.job_ports import JobPorts, key_files, sum_bytes_max
from eigen.protocol.job_effects import Signed
from eigen.protocol.private_job import PrivateJob
from eigen.protocol.types import Address
from eigen.training.errors import BadCiphertext


class FalseSum(Exception):
    """Some of the parts are no bundles of ciphertexts; `culprits` handed them over."""

    def __init__(self, why: str, culprits: tuple[Address, ...]) -> None:
        super().__init__(why)
        self.culprits = culprits


async def add_up(
    ports: JobPorts,
    job: PrivateJob,
    round_: int,
    parts: Sequence[Sequence[Signed]],
    total: Path,
    timeout_s: float,
) -> None:
    """Fetch the parts, and write their sum to `total`; each was parsed and checked then.

    Raises `FalseSum`, or what fetching and the worker raise.
    """
    keys = await key_files(ports, job)
    files = []
    for sums in parts:
        first = sums[0].sum
        await ports.note(first.job, round_, first.total)
        below = (signed.author for signed in sums)
        files.append(await ports.files(first.total, below, sum_bytes_max(job)))
    try:
        await ports.evaluations.add(job, keys, files, total, timeout_s=timeout_s)
    except BadCiphertext as error:
        culprits = []
        for sums, part in zip(parts, files, strict=True):
            try:
                await ports.evaluations.add(job, keys, [part], total, timeout_s=timeout_s)
            except BadCiphertext:
                culprits.append(sums[0].author)
        raise FalseSum(str(error), tuple(culprits)) from None
