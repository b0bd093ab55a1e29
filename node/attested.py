"""What validators attested of late: two statements on one round are proof against their author."""

from dataclasses import replace

from eigen.crypto.errors import BadSignature
from eigen.crypto.identity import recover
from eigen.protocol.messages import Attestation
from eigen.protocol.types import Address, Digest

ROUNDS = 64
"""Of each validator, its last ones: 64 kB for 4 of them."""
_UNSIGNED = bytes(65)


class Attested:
    """The first statement of each validator on each of the last rounds that it spoke of."""

    def __init__(self) -> None:
        self._first: dict[Address, dict[int, Attestation]] = {}

    def add(self, validator: Address, attestation: Attestation) -> Attestation | None:
        """Take in what a validator says. Returns what it said before, where that differs."""
        of_validator = self._first.setdefault(validator, {})
        first = of_validator.setdefault(attestation.round, attestation)
        while len(of_validator) > ROUNDS:
            del of_validator[min(of_validator)]
        return first if _said(first) != _said(attestation) else None


def signs(validator: Address, digest: Digest, attestation: Attestation) -> bool:
    """Whether a validator signed an attestation whose EIP-712 digest this is."""
    try:
        return recover(digest, attestation.signature) == validator
    except BadSignature:
        return False


def _said(attestation: Attestation) -> Attestation:
    """Without its signature, of which there are many for one statement."""
    return replace(attestation, signature=_UNSIGNED)
