"""The largest values of each chunk, in 1 or 2 bits, and where they lie.

Shape legend: P values of a part, C chunks, K kept values of a chunk, N kept values of a part.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eigen.training.codecs.blocks import values_of
from eigen.training.codecs.levels import Levels
from eigen.training.codecs.rice import decode_gaps, encode_gaps, gaps_bytes_max
from eigen.training.errors import CodecError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_VALUES = 4096
_INDEX_BITS = 12


class TopK:
    """The `kept` largest magnitudes of each chunk of 4096; all else is left to the residual.

    Of equal magnitudes the first ones are kept. A last, shorter chunk keeps as large a share,
    rounded up. The kept values go through `Levels` with one block a chunk; the indices follow as
    Rice-coded gaps (`rice`), from one kept value of the part to the next. Chunked top-k with error
    feedback follows DisTrO and DeMo (arXiv:2411.19870); the decay of the residual keeps what was
    held back for many rounds from striking when it is out of date.
    """

    lossless = False
    residual_decay = 0.95

    def __init__(self, kept: int, levels: int, answer: str) -> None:
        self.answer = answer
        self._kept = kept
        self._levels = Levels(levels, kept)

    def encoded_bytes(self, values: int) -> int:
        """The most that it can be: kept values, and gaps that sum to what is not kept."""
        count = sum(self._counts(values))
        return self._levels.encoded_bytes(count) + gaps_bytes_max(count, values - count)

    def encode(self, part_P: "Tensor") -> bytes:
        """See `Codec`."""
        import torch

        value_P = values_of(part_P)
        index_N = self._largest(value_P)
        gap_N = np.diff(index_N, prepend=-1) - 1
        return self._levels.encode(torch.from_numpy(value_P[index_N])) + encode_gaps(gap_N)

    def decode(self, data: bytes, values: int) -> "Tensor":
        """See `Codec`."""
        import torch

        if len(data) > (most := self.encoded_bytes(values)):
            raise CodecError(f"{len(data)} bytes where at most {most} are expected")
        counts = self._counts(values)
        middle = self._levels.encoded_bytes(sum(counts))
        kept_N = self._levels.decode(data[:middle], sum(counts))
        index_N = np.cumsum(decode_gaps(data[middle:], sum(counts)) + 1) - 1
        if values and index_N[-1] >= values:
            raise CodecError("an index lies behind the part")
        chunk_N = np.repeat(np.arange(len(counts)), counts)
        if not np.array_equal(index_N // CHUNK_VALUES, chunk_N):
            raise CodecError("a chunk has more or fewer values than are kept")
        part_P = torch.zeros(values)
        part_P[torch.from_numpy(index_N)] = kept_N
        return part_P

    def _counts(self, values: int) -> list[int]:
        """Kept values of each chunk."""
        whole, rest = divmod(values, CHUNK_VALUES)
        return [self._kept] * whole + [-(-self._kept * rest // CHUNK_VALUES)] * (rest > 0)

    def _largest(self, value_P: NDArray[np.float32]) -> NDArray[np.int64]:
        """Where the kept values lie, ascending."""
        whole = len(value_P) // CHUNK_VALUES * CHUNK_VALUES
        found = []
        for start, stop, count in (
            (0, whole, self._kept),
            (whole, len(value_P), self._counts(len(value_P))[-1] if whole < len(value_P) else 0),
        ):
            if start < stop:
                chunk_CV = value_P[start:stop].reshape(-1, min(CHUNK_VALUES, stop - start))
                index_CK = _largest_of_each(chunk_CV, count)
                index_CK += np.arange(start, stop, CHUNK_VALUES)[:, None]
                found.append(index_CK.ravel())
        return np.concatenate([np.zeros(0, np.int64), *found])


def _largest_of_each(chunk_CV: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Places [C, K] in their chunks, ascending.

    Magnitudes are compared as integers, with what is left of the chunk behind the value as the
    lower bits: no two keys are equal, so every way to choose the largest chooses the same.
    """
    import torch

    key_CV = (chunk_CV.view(np.int32) & 0x7FFFFFFF).astype(np.int64) << _INDEX_BITS
    key_CV |= np.arange(CHUNK_VALUES - 1, CHUNK_VALUES - 1 - chunk_CV.shape[1], -1)
    key_CK = torch.from_numpy(key_CV).topk(count, sorted=False).values.numpy()
    return np.sort(CHUNK_VALUES - 1 - (key_CK & (CHUNK_VALUES - 1)), axis=1)
