"""The owner's side: the secret key, what it encrypts, and the keys that it publishes.

Only one process of the owner's holds an object of this module; it is never sent nor logged.
"""

from collections.abc import Sequence

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from eigen.crypto.ckks import bundle
from eigen.crypto.ckks.parameters import SCALE, SLOTS, Parameters, galois_element, parameters
from eigen.crypto.ckks.seal_bytes import load, save
from eigen.crypto.errors import MalformedCiphertext

Values = NDArray[np.float64]


class SecretKey:
    """A CKKS secret key and what only its holder can do. Its `repr` shows nothing of it."""

    def __init__(self, key: object, made: Parameters) -> None:
        self.parameters = made
        self._key = key
        self._encoder = seal.CKKSEncoder(made.context)
        self._encryptor = seal.Encryptor(made.context, key)
        self._decryptor = seal.Decryptor(made.context, key)

    @classmethod
    def generate(cls) -> "SecretKey":
        """A fresh key from the operating system's randomness."""
        made = parameters()
        return cls(seal.KeyGenerator(made.context).secret_key(), made)

    @classmethod
    def from_bytes(cls, data: bytes) -> "SecretKey":
        """The key that `to_bytes` gave. Raises `MalformedCiphertext`."""
        made = parameters()
        return cls(load(seal.SecretKey, made.context, data), made)

    def to_bytes(self) -> bytes:
        """The key, 250 kB. Keep it out of logs, messages and command lines."""
        return save(self._key)

    def __repr__(self) -> str:
        return "SecretKey()"

    def evaluation_keys(self, steps: Sequence[int]) -> bytes:
        """What evaluators need and all that they get: one relinearisation key, these rotations.

        Half of each key is random and stands there as a seed. About 1.25 MB each.
        """
        generator = seal.KeyGenerator(self.parameters.context, self._key)
        items = [save(generator.create_relin_keys())]
        if steps:
            elements = [galois_element(step) for step in steps]
            items.append(save(generator.create_galois_keys(elements)))
        return bundle.pack(items)

    def encrypt(self, values: Values, level: int = 0, scale: float = SCALE) -> bytes:
        """Up to `SLOTS` numbers as a ciphertext at a level, 198 kB at level 0.

        Symmetric: one of the two polynomials is random and stands there as a seed. Raises
        ValueError where a number is not finite or too many are given.
        """
        if values.ndim != 1 or len(values) > SLOTS or not np.isfinite(values).all():
            raise ValueError(f"{values.shape} numbers, finite ones and at most {SLOTS}")
        plain = seal.Plaintext()
        self._encoder.encode(values.tolist(), self.parameters.levels[level], scale, plain)
        return save(self._encryptor.encrypt_symmetric(plain))

    def decrypt(self, data: bundle.Buffer, level: int, scale: float) -> Values:
        """The `SLOTS` numbers of a ciphertext, which must be at this level and scale.

        The bytes must have been verified before: ciphertexts can be altered unnoticed. Raises
        `MalformedCiphertext`.
        """
        cipher = load(seal.Ciphertext, self.parameters.context, data)
        if list(cipher.parms_id()) != list(self.parameters.levels[level]) or cipher.size() != 2:
            raise MalformedCiphertext(
                "a ciphertext at another level, or of another size, than it must be"
            )
        if abs(cipher.scale / scale - 1) > 1e-9:
            raise MalformedCiphertext("a ciphertext of another scale than it must have")
        plain = seal.Plaintext()
        self._decryptor.decrypt(cipher, plain)
        return np.array(self._encoder.decode_double(plain))
