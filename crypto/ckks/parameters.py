"""The one set of encryption parameters, with its security asserted. Nothing in it is negotiable.

Ring dimension 8,192 and a modulus of 200 bits: the HomomorphicEncryption.org standard (2018) allows
218 bits for 128-bit security against classical attacks with a ternary secret. SEAL checks it again.

Levels are counted down: a fresh ciphertext is at level 0 and has five primes; each rescaling drops
the last one. At level 4 one prime of 40 bits is left, and nothing can be multiplied any more.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, Self

import tenseal.sealapi as seal

from eigen.crypto.errors import InsecureParameters

DEGREE: Final = 8192
SLOTS: Final = DEGREE // 2
"""Numbers in one ciphertext."""
PRIME_BITS: Final = (40, 30, 30, 30, 30, 40)
"""Five primes for data, from the last that is left to the first that is dropped, and one for keys.
30 bits keep about 5 decimal digits through four multiplications."""
SCALE: Final = 2.0**30
"""Numbers are multiplied by this before they are rounded to integers."""
SECURITY_BITS: Final = 128
MODULUS_BITS_MAX: Final = 218
"""For 128 bits at this ring dimension, as the standard's table has it."""
SUM_MAX: Final = 2.0 ** (PRIME_BITS[0] - 30 - 1)
"""Magnitudes from here wrap around at the last level: 512."""


@dataclass(frozen=True)
class Parameters:
    """A SEAL context for the constants above, and what follows from its primes."""

    context: Any

    @classmethod
    def make(cls, degree: int = DEGREE, prime_bits: tuple[int, ...] = PRIME_BITS) -> Self:
        """Raises `InsecureParameters` for less than 128 bits: SEAL's own judgement and ours."""
        parms = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        parms.set_poly_modulus_degree(degree)
        parms.set_coeff_modulus(seal.CoeffModulus.Create(degree, list(prime_bits)))
        context = seal.SEALContext(parms, True, seal.SEC_LEVEL_TYPE.TC128)
        if not context.parameters_set():
            raise InsecureParameters(context.parameters_error_message())
        if degree == DEGREE and sum(prime_bits) > MODULUS_BITS_MAX:
            raise InsecureParameters(f"a modulus of {sum(prime_bits)} bits")
        return cls(context)

    @cached_property
    def primes(self) -> tuple[int, ...]:
        """Data primes; the last one is dropped first."""
        chain = self.context.first_context_data().parms().coeff_modulus()
        return tuple(prime.value() for prime in chain)

    @cached_property
    def levels(self) -> tuple[list[int], ...]:
        """SEAL's names of the levels, a fresh ciphertext's first."""
        names, data = [], self.context.first_context_data()
        while data is not None:
            names.append(data.parms_id())
            data = data.next_context_data()
        return tuple(names)

    def dropped(self, level: int) -> int:
        """The prime by which a ciphertext at this level is divided when it is rescaled."""
        return self.primes[len(self.primes) - 1 - level]


@lru_cache(maxsize=1)
def parameters() -> Parameters:
    """The parameters of this process; making them takes some milliseconds."""
    return Parameters.make()


def galois_element(step: int) -> int:
    """The automorphism that rotates slots by `step` to the left: 3^step mod 2N."""
    return pow(3, step % SLOTS, 2 * DEGREE)
