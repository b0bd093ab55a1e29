"""Feature blocks: how a shard's rows lie in ciphertexts, and what that costs. Knows no encryption.

A ciphertext of S slots is cut into F = S / B blocks of B slots, B a power of two at least the rows
of the shard. Block f of ciphertext c holds feature c·F + f of all rows:

    [ x[0, cF] … x[B-1, cF] | x[0, cF+1] … | … | x[0, cF+F-1] … x[B-1, cF+F-1] ]

Forward, Σ_c X_c ⊙ W_c leaves F partial sums a row, and log₂ F rotations by B, 2B, … add them up, so
that each block holds the rows' z. Back, X_c ⊙ r is each row's share of feature c·F + f's gradient;
the owner adds up the rows after decryption.

    n  rows    d  features    B  slots a block    F  blocks    C  ciphertexts    K  outputs
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLOTS = 4096
"""`eigen.crypto.ckks.parameters.SLOTS`; a test holds the two together."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """How `n` rows of `d` features lie in ciphertexts, for `K` outputs of the head."""

    n: int
    d: int
    K: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= SLOTS:
            raise ValueError(f"{self.n} rows in a shard, 1 to {SLOTS} fit")
        if self.d < 1 or self.K < 1:
            raise ValueError("no features, or no outputs")

    @property
    def B(self) -> int:
        """Slots of one feature."""
        return 1 << (self.n - 1).bit_length()

    @property
    def F(self) -> int:
        """Features in one ciphertext."""
        return SLOTS // self.B

    @property
    def C(self) -> int:
        """Ciphertexts of one shard's features, or of one output's weights."""
        return -(-self.d // self.F)

    @property
    def steps(self) -> tuple[int, ...]:
        """Rotations that add up a row's partial sums."""
        return tuple(self.B << power for power in range(self.F.bit_length() - 1))

    def features(self, x_nd: Values) -> list[Values]:
        """A shard's rows, at most `n`, as the slots of `C` ciphertexts."""
        padded = np.zeros((self.C * self.F, self.B))
        padded[: self.d, : len(x_nd)] = x_nd.T
        return list(padded.reshape(self.C, SLOTS))

    def rows(self, values_n: Values) -> Values:
        """One number a row, in every block."""
        padded = np.zeros(self.B)
        padded[: len(values_n)] = values_n
        return np.tile(padded, self.F)

    def weights(self, w_d: Values) -> list[Values]:
        """One output's weights: each one in all slots of its feature's block."""
        padded = np.zeros(self.C * self.F)
        padded[: self.d] = w_d
        return list(np.repeat(padded.reshape(self.C, self.F), self.B, axis=1))

    def gradient(self, slots_CS: list[Values]) -> Values:
        """The sum over rows of each feature, from the slots of one output's `C` ciphertexts."""
        blocks = np.concatenate([slots.reshape(self.F, self.B) for slots in slots_CS])
        total: Values = blocks.sum(1)[: self.d]
        return total
