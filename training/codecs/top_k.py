"""The largest values of each chunk, in 1 or 2 bits, and where they lie.

Shape legend: P values of a part, C chunks, V values of a chunk, G groups of a chunk, M candidates,
N kept values.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eigen.training.codecs.blocks import in_blocks, values_of
from eigen.training.codecs.levels import Levels
from eigen.training.codecs.rice import decode_gaps, encode_gaps, gaps_bytes_max
from eigen.training.errors import CodecError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_VALUES = 4096
_PLACE_BITS = 12
_MAGNITUDE_BITS = 31
_LARGEST = 2**_MAGNITUDE_BITS - 1


class TopK:
    """The `kept` largest magnitudes of each chunk of 4096; all else is left to the residual.

    Of equal magnitudes the first ones are kept. A last, shorter chunk keeps as large a share,
    rounded up. The kept values go through `Levels` with one block a chunk; the indices follow as
    Rice-coded gaps (`rice`), from one kept value of the part to the next. Chunked top-k with error
    feedback follows DisTrO and DeMo (arXiv:2411.19870); the decay of the residual keeps what was
    held back for many rounds from striking when it is out of date.
    """

    lossless = False
    sparse = True
    block_values = CHUNK_VALUES
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
        """Where the kept values lie, ascending.

        Magnitudes are compared as integers, and equal ones by place, so there is one answer. Few
        values are sorted: of the groups of a chunk, K have a maximum that reaches the K-th largest
        of these maxima; so at least K values reach it, and the K largest are among them.
        """
        magnitude_CV = in_blocks(value_P.view(np.int32) & _LARGEST, CHUNK_VALUES)
        count_C = np.array(self._counts(len(value_P)), np.int64)
        groups = 4 * self._kept
        maxima_CG = np.sort(magnitude_CV.reshape(-1, CHUNK_VALUES // groups, groups).max(1), axis=1)
        floor_C = maxima_CG[np.arange(len(count_C)), groups - count_C]
        place_M = np.flatnonzero(magnitude_CV >= floor_C[:, None])
        chunk_M = place_M // CHUNK_VALUES
        # In ascending order of keys: by chunk, the largest first, and of equals the first.
        key_M = chunk_M << _MAGNITUDE_BITS | (_LARGEST - magnitude_CV.reshape(-1)[place_M])
        key_M = np.sort(key_M << _PLACE_BITS | place_M % CHUNK_VALUES)
        found_C = np.bincount(chunk_M, minlength=len(count_C))
        first_C = np.cumsum(found_C) - found_C
        rank_M = np.arange(len(key_M)) - np.repeat(first_C, found_C)
        key_N = key_M[rank_M < np.repeat(count_C, found_C)]
        kept_P = np.zeros(magnitude_CV.size, np.bool_)
        chunk_N = key_N >> _MAGNITUDE_BITS + _PLACE_BITS
        kept_P[chunk_N * CHUNK_VALUES + key_N % CHUNK_VALUES] = True
        return np.flatnonzero(kept_P)
