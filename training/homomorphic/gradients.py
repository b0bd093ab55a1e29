"""The trainer's side: one shard of ciphertexts, and its encrypted gradient for a round's weights.

Deterministic: whoever computes the same gets the same bytes, so a digest proves the work.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from eigen.crypto.ckks import bundle
from eigen.crypto.ckks.evaluation import EvaluationKeys
from eigen.crypto.ckks.parameters import SCALE
from eigen.crypto.ckks.seal_bytes import save
from eigen.crypto.errors import MalformedCiphertext
from eigen.training.homomorphic.circuit import GRADIENT_LEVEL, TARGET_LEVEL, Circuit
from eigen.training.homomorphic.layout import BlockLayout

Weights = NDArray[np.float64]


class EncryptedShard:
    """A shard as it was encrypted, ready for round after round."""

    def __init__(
        self, keys: EvaluationKeys, layout: BlockLayout, data: bundle.Buffer, *, linear: bool
    ) -> None:
        """`data` is a bundle of `C` ciphertexts of features and `K` of targets.

        Raises `MalformedCiphertext`.
        """
        self.layout = layout
        self._keys = keys
        self._ev = keys.evaluator
        self._made = keys.parameters
        self._circuit = Circuit.of(self._made, linear=linear)
        items = bundle.unpack(data, count=layout.C + layout.K)
        self._x = [keys.load(item, 0, SCALE) for item in items[: layout.C]]
        scale = self._circuit.residual
        self._u = [keys.load(item, TARGET_LEVEL, scale) for item in items[layout.C :]]
        # The features once more where the gradient needs them: as many primes less, each round.
        self._low = [self._lowered(x, TARGET_LEVEL) for x in self._x]

    def gradient(self, weights: "Weights | bundle.Buffer", k: float) -> Iterator[bytes]:
        """Σ over rows of x · (p(z) - y), one summand a slot yet, as K · C ciphertexts.

        `weights` are d x K numbers, times the polynomial's scale, or a bundle of K · C ciphertexts.
        Not all weights of an output may be zero. Raises `MalformedCiphertext`.
        """
        count = self.layout.K * self.layout.C
        if isinstance(weights, np.ndarray):
            forward = [partial(self._forward_plain, column) for column in weights.T]
        else:
            given, size = bundle.unpack(weights, count=count), self.layout.C
            forward = [
                partial(self._forward, given[start : start + size])
                for start in range(0, count, size)
            ]
        for output, u in zip(forward, self._u, strict=True):
            residual = self._residual(output(), u, k)
            for low in self._low:
                yield save(self._times(low, residual))

    # level 0 --------------------------------------------------------------------------------------
    def _forward(self, items: Sequence[bundle.Buffer]) -> Any:
        total = None
        for x, item in zip(self._x, items, strict=True):
            product = seal.Ciphertext()
            weight = self._keys.load(item, 0, self._circuit.weights)
            self._ev.multiply(x, weight, product)
            total = self._plus(total, product)
        self._ev.relinearize_inplace(total, self._keys.relin)
        return self._summed(total)

    def _forward_plain(self, weights_d: Weights) -> Any:
        total = None
        for x, slots in zip(self._x, self.layout.weights(weights_d), strict=True):
            value = float(slots[0]) if self.layout.F == 1 else slots.tolist()
            plain = self._encoded(value, 0, self._circuit.weights)
            if plain.is_zero():
                continue
            product = seal.Ciphertext()
            self._ev.multiply_plain(x, plain, product)
            total = self._plus(total, product)
        if total is None:
            raise MalformedCiphertext("all weights of an output are zero")
        return self._summed(total)

    def _summed(self, total: Any) -> Any:
        """z in every block, at level 1."""
        self._ev.rescale_to_next_inplace(total)
        total.scale = SCALE
        for step in self.layout.steps:
            turned = seal.Ciphertext()
            self._ev.rotate_vector(total, step, self._keys.galois, turned)
            self._ev.add_inplace(total, turned)
        return total

    # levels 1 to 4 --------------------------------------------------------------------------------
    def _residual(self, z: Any, u: Any, k: float) -> Any:
        """p(z) - y at level 3."""
        if self._circuit.linear:
            residual = self._lowered(z, TARGET_LEVEL)
        else:
            square = seal.Ciphertext()
            self._ev.square(z, square)
            self._reduce(square, self._circuit.square)
            self._ev.negate_inplace(square)
            self._ev.add_plain_inplace(square, self._encoded(float(k), 2, self._circuit.square))
            residual = seal.Ciphertext()
            self._ev.multiply(square, self._lowered(z, 2), residual)
            self._reduce(residual, self._circuit.residual)
        self._ev.add_inplace(residual, u)
        return residual

    def _times(self, x: Any, residual: Any) -> Any:
        """One ciphertext of the gradient, relinearised where one prime is left and it is cheap."""
        product = seal.Ciphertext()
        self._ev.multiply(x, residual, product)
        self._ev.rescale_to_next_inplace(product)
        self._ev.relinearize_inplace(product, self._keys.relin)
        product.scale = self._circuit.gradient
        assert list(product.parms_id()) == list(self._made.levels[GRADIENT_LEVEL])
        return product

    def _reduce(self, product: Any, scale: float) -> None:
        self._ev.relinearize_inplace(product, self._keys.relin)
        self._ev.rescale_to_next_inplace(product)
        product.scale = scale

    def _lowered(self, cipher: Any, level: int) -> Any:
        lowered = seal.Ciphertext()
        self._ev.mod_switch_to(cipher, self._made.levels[level], lowered)
        return lowered

    def _encoded(self, value: "float | list[float]", level: int, scale: float) -> Any:
        plain = seal.Plaintext()
        self._keys.encoder.encode(value, self._made.levels[level], scale, plain)
        return plain

    def _plus(self, total: Any, product: Any) -> Any:
        if total is None:
            return product
        self._ev.add_inplace(total, product)
        return total
