"""The evaluator's side: public keys, ciphertexts of others, and sums of them. Holds no secret.

Whatever is parsed here was verified before, digest and signature: ciphertexts are malleable.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import tenseal.sealapi as seal

from eigen.crypto.ckks import bundle
from eigen.crypto.ckks.parameters import Parameters, galois_element, parameters
from eigen.crypto.ckks.seal_bytes import load, save
from eigen.crypto.errors import MalformedCiphertext, SecretKeyInside, WrongContext

KEYS_MAX = 16
"""Items that are searched for a secret key: more than any bundle of keys has."""


class EvaluationKeys:
    """The keys of one owner, and an evaluator for its ciphertexts."""

    def __init__(self, data: bundle.Buffer, steps: Sequence[int]) -> None:
        """Keys as `SecretKey.evaluation_keys` packs them, for exactly these rotations.

        Raises `SecretKeyInside` where the owner published its secret key, `WrongContext` for keys
        of other parameters or other rotations, `MalformedCiphertext` for no keys at all.
        """
        self.parameters: Parameters = parameters()
        context = self.parameters.context
        try:
            items = bundle.unpack(data, count=2 if steps else 1)
        except MalformedCiphertext:
            refuse_secrets(data)
            raise
        try:
            self.relin = load(seal.RelinKeys, context, items[0])
            self.galois = load(seal.GaloisKeys, context, items[1]) if steps else None
        except MalformedCiphertext as error:
            refuse_secrets(data)
            raise WrongContext(f"keys that do not fit our parameters: {error}") from None
        if self.relin.size() != 1:
            raise WrongContext(f"{self.relin.size()} relinearisation keys, where one is needed")
        elements = [galois_element(step) for step in steps]
        if self.galois is not None and (
            self.galois.size() != len(elements) or not all(map(self.galois.has_key, elements))
        ):
            raise WrongContext(f"other rotations than by {', '.join(map(str, steps))}")
        self.evaluator: Any = seal.Evaluator(context)
        self.encoder: Any = seal.CKKSEncoder(context)

    def load(self, data: bundle.Buffer, level: int, scale: float) -> Any:
        """A ciphertext of two polynomials, at this level and scale.

        Raises `MalformedCiphertext` or `SecretKeyInside`. That it was made with this owner's key
        cannot be seen.
        """
        try:
            cipher = load(seal.Ciphertext, self.parameters.context, data)
        except MalformedCiphertext:
            refuse_secrets(bundle.pack([data]))
            raise
        if list(cipher.parms_id()) != list(self.parameters.levels[level]):
            raise MalformedCiphertext(f"a ciphertext at another level than {level}")
        if cipher.size() != 2 or cipher.is_transparent():
            raise MalformedCiphertext("no ciphertext of two polynomials")
        if abs(cipher.scale / scale - 1) > 1e-9:
            raise MalformedCiphertext(f"a scale of {cipher.scale:g} where {scale:g} is needed")
        cipher.scale = scale
        return cipher

    def add(
        self, bundles: Sequence[bundle.Buffer], count: int, level: int, scale: float
    ) -> Iterator[bytes]:
        """The sums of bundles of `count` ciphertexts each, item by item; order changes nothing.

        Raises `MalformedCiphertext`.
        """
        opened = [bundle.unpack(data, count=count) for data in bundles]
        for items in zip(*opened, strict=True):
            total, *others = (self.load(item, level, scale) for item in items)
            for other in others:
                self.evaluator.add_inplace(total, other)
            yield save(total)


def refuse_secrets(data: bundle.Buffer) -> None:
    """Raise `SecretKeyInside` where a small bundle holds a secret key of our parameters."""
    count = int.from_bytes(data[8:12], "little")
    if count > KEYS_MAX:
        return
    for item in bundle.unpack(data, count=count):
        try:
            load(seal.SecretKey, parameters().context, item)
        except MalformedCiphertext:
            continue
        raise SecretKeyInside("a secret key stands where public keys or ciphertexts belong")
