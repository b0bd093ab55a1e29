"""What every codec can do, and error feedback, which is the same for all of them.

Arithmetic is separate fp32 elementwise operations, or integers, so every machine writes the same
bytes. A codec holds one part at a time: its working memory is a few arrays of the part's size.

Shape legend: P values of a part.
"""

from typing import TYPE_CHECKING, Protocol

from eigen.training.codecs.blocks import VALUE_MAX, check_magnitudes
from eigen.training.errors import CodecError

if TYPE_CHECKING:
    from torch import Tensor


class Codec(Protocol):
    """Bytes for a part, and back. Decoding is strict: it never trusts what a peer sent."""

    @property
    def lossless(self) -> bool:
        """Whether decoding gives back every bit, so that no residual is kept."""
        ...

    @property
    def sparse(self) -> bool:
        """Whether most values are not sent at all."""
        ...

    @property
    def block_values(self) -> int:
        """Values that are encoded together: whole blocks of a part encode alone as they do in it.

        The last block of a part may have fewer.
        """
        ...

    @property
    def residual_decay(self) -> float:
        """What is left of a residual after a round: 1, or less where old residuals do harm."""
        ...

    @property
    def answer(self) -> str:
        """The codec, by name, in which the answer to this one travels unless a run says more."""
        ...

    def encoded_bytes(self, values: int) -> int:
        """The size of `values` encoded values: exact, but for sparse codecs the most it can be."""
        ...

    def encode(self, part_P: "Tensor") -> bytes:
        """Encode fp32 values. Raises `CodecError` for NaN, infinity or magnitudes too large."""
        ...

    def decode(self, data: bytes, values: int) -> "Tensor":
        """`values` fp32 values, none above `VALUE_MAX`. Raises `CodecError` and nothing else."""
        ...


def encode_with_feedback(
    codec: Codec, update_P: "Tensor", residual_P: "Tensor"
) -> tuple[bytes, "Tensor"]:
    """Encode update + decayed residual; the new residual is what the bytes leave out of that sum.

    Error feedback (Karimireddy et al., arXiv:1901.09847), for an update on its way up and a result
    on its way down. The sum is cut to ±`VALUE_MAX`, so that no residual makes a good update
    unsendable. With a lossless codec both residuals are zeros. Raises `CodecError` where the
    update is at fault: NaN, infinite or too large.
    """
    if codec.lossless:
        return codec.encode(update_P), residual_P
    if codec.residual_decay != 1.0:
        residual_P = residual_P * codec.residual_decay
    wanted_P = update_P + residual_P
    try:
        data = codec.encode(wanted_P)
    except CodecError:
        check_magnitudes(update_P.numpy())
        data = codec.encode(wanted_P.clamp_(-VALUE_MAX, VALUE_MAX))
    return data, wanted_P.sub_(codec.decode(data, wanted_P.numel()))
