"""The owner's side: encrypts shards and weights, decrypts sums of gradients, checks the ranges.

It holds data and key. What it decrypts is the sum over all shards, never one trainer's share.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eigen.crypto.ckks import bundle
from eigen.crypto.ckks.parameters import SUM_MAX
from eigen.crypto.ckks.secret import SecretKey
from eigen.training.errors import Diverged
from eigen.training.homomorphic.circuit import GRADIENT_LEVEL, TARGET_LEVEL, Circuit
from eigen.training.homomorphic.head import Head
from eigen.training.homomorphic.layout import BlockLayout
from eigen.training.homomorphic.sigmoid import Cubic

Values = NDArray[np.float64]

SAFETY = 0.8
"""Of `SUM_MAX`: what noise and rounding may add has room above."""
TOLERANCE = 1e-2
"""A sum may pass the bound that the data sets by this, relative: noise is far below."""


class ImplausibleSum(Exception):
    """A decrypted gradient is larger than the data allow: some trainer did not compute it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What trainers get for a round: weights times the polynomial's scale, and its coefficient."""

    w_dK: Values
    cubic: Cubic
    bound: float
    """No slot of the sum can be larger than this; the owner works it out from its data."""

    @property
    def scaled(self) -> Values:
        """d x K weights as trainers use them, in the clear or encrypted."""
        return self.cubic.scale * self.w_dK


class Owner:
    """One job's key, head and training rows, cut into shards of equal layout."""

    def __init__(self, key: SecretKey, head: Head, shards: Sequence[tuple[Values, Values]]) -> None:
        """Each shard is its features (n x d, encoded) and targets; all have one layout."""
        rows = max(len(x) for x, _ in shards)
        self.layout = BlockLayout(rows, shards[0][0].shape[1], head.outputs)
        self.head = head
        self.rows = sum(len(x) for x, _ in shards)
        self._key = key
        self._shards = shards
        self._circuit = Circuit.of(key.parameters, linear=head.linear)

    def evaluation_keys(self) -> bytes:
        """The public keys that trainers of this layout need."""
        return self._key.evaluation_keys(self.layout.steps)

    def encrypted_shard(self, index: int) -> Iterator[bytes]:
        """A shard's `C` ciphertexts of features and `K` of targets."""
        x_nd, y_n = self._shards[index]
        for slots in self.layout.features(x_nd):
            yield self._key.encrypt(slots)
        for column in self.head.offsets(y_n).T:
            slots = self.layout.rows(column)
            yield self._key.encrypt(slots, TARGET_LEVEL, self._circuit.residual)

    def question(self, w_dK: Values) -> Question:
        """A round's polynomial for these weights, with the bound of its sum.

        Raises `Diverged` where sums could wrap around.
        """
        try:
            cubic = max(
                (self.head.fit(x, w_dK) for x, _ in self._shards), key=lambda fit: fit.range
            )
        except OverflowError as error:
            raise Diverged(str(error)) from None
        bound = 0.0
        for x_nd, y_n in self._shards:
            residual = self.head.residual(x_nd, y_n, w_dK, cubic)
            bound += float((np.abs(x_nd).max(1)[:, None] * np.abs(residual)).max())
        if not bound <= SAFETY * SUM_MAX:
            raise Diverged(
                f"gradients of {len(self._shards)} shards may reach {bound:.0f}, at most "
                f"{SAFETY * SUM_MAX:.0f}: lower training.lr, or use fewer and larger shards"
            )
        return Question(w_dK, cubic, bound)

    def encrypted_weights(self, question: Question) -> Iterator[bytes]:
        """The round's weights as K · C ciphertexts."""
        for column in question.scaled.T:
            for slots in self.layout.weights(column):
                yield self._key.encrypt(slots, 0, self._circuit.weights)

    def gradient(self, data: bundle.Buffer, question: Question) -> Values:
        """The mean gradient over all rows, d x K, of the sum of all shards' bundles.

        Raises `MalformedCiphertext`, or `ImplausibleSum` where it is not what shards of this data
        can add up to: a wrong key, an overflow, or a trainer that made it up.
        """
        size = self.layout.C
        items = bundle.unpack(data, count=self.layout.K * size)
        scale = self._circuit.gradient
        columns = []
        for index in range(self.layout.K):
            slots = [
                self._key.decrypt(item, GRADIENT_LEVEL, scale)
                for item in items[index * size : (index + 1) * size]
            ]
            largest = max(float(np.abs(values).max()) for values in slots)
            if not largest <= question.bound * (1 + TOLERANCE) + TOLERANCE:
                raise ImplausibleSum(
                    f"a slot holds {largest:.3g} where at most {question.bound:.3g} can be"
                )
            columns.append(self.layout.gradient(slots))
        return np.stack(columns, axis=1) / self.rows
