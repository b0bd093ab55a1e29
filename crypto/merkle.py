"""Merkle trees for commitments (RFC 9162, SHA-256) and for payouts (OpenZeppelin, Keccak-256).

The two differ because their verifiers do: peers check commitments with an index, the ledger checks
payouts with OpenZeppelin's `MerkleProof`, which sorts each pair and knows no index.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from eigen.crypto.errors import MerkleError
from eigen.crypto.hashing import keccak256
from eigen.protocol.messages import Payout
from eigen.protocol.types import Address, Digest

__all__ = [
    "CommitmentTree",
    "InclusionProof",
    "PayoutTree",
    "leaf_hash",
    "payout_root",
    "verify_inclusion",
    "verify_payout",
]

HASH_BYTES: Final = 32

LEAVES_MAX: Final = 1 << 32
"""Of one tree: 512 KiB parts of the largest model imaginable and single samples both fit."""

PATH_HASHES_MAX: Final = 32
"""Nodes of a proof, hence work for each proof of a peer: the depth of a tree of `LEAVES_MAX`."""

EMPTY_PAYOUT_ROOT: Final = Digest(bytes(HASH_BYTES))
"""Root of a table without rows. No proof leads to it, as no preimage of it is known."""


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That a leaf is number `index` of `leaf_count`. `path` runs from the leaf up to the root."""

    index: int
    leaf_count: int
    path: tuple[Digest, ...]


class CommitmentTree:
    """A Merkle tree over byte strings, in their order (RFC 9162, section 2.1).

    Leaves and inner nodes are hashed with different prefixes, so that no inner node can be passed
    off as a leaf. Keeps all hashes (about 64 bytes a leaf), not the leaves.
    """

    __slots__ = ("_levels",)

    def __init__(self, leaves: Iterable[bytes]) -> None:
        self._levels = _levels([leaf_hash(leaf) for leaf in leaves])

    @classmethod
    def from_leaf_hashes(cls, hashes: Iterable[Digest]) -> Self:
        """The same tree from `leaf_hash` of each leaf, for leaves too large to hold together.

        Raises `MerkleError` for a hash that has not 32 bytes.
        """
        checked = list(hashes)
        if any(len(value) != HASH_BYTES for value in checked):
            raise MerkleError(f"a leaf hash has {HASH_BYTES} bytes")
        tree = cls(())
        tree._levels = _levels(checked)
        return tree

    def __len__(self) -> int:
        return len(self._levels[0])

    @property
    def root(self) -> Digest:
        """What the leaves' owner commits to; SHA-256 of nothing for a tree without leaves."""
        return self._levels[-1][0] if len(self) else Digest(hashlib.sha256(b"").digest())

    def prove(self, index: int) -> InclusionProof:
        """Proof for leaf `index`. Raises `MerkleError` outside of the tree."""
        if not 0 <= index < len(self):
            raise MerkleError(f"leaf {index} of a tree with {len(self)} leaves")
        path = []
        at = index
        for level in self._levels[:-1]:
            if at ^ 1 < len(level):
                path.append(level[at ^ 1])
            at >>= 1
        return InclusionProof(index, len(self), tuple(path))


def leaf_hash(leaf: bytes) -> Digest:
    """What stands for a leaf in a `CommitmentTree`."""
    return Digest(hashlib.sha256(b"\x00" + leaf).digest())


def verify_inclusion(root: Digest, leaf: bytes, proof: InclusionProof) -> bool:
    """Whether `leaf` stands where the proof says, under `root` (RFC 9162, section 2.1.3.2).

    Total on a peer's bytes; its work is bounded by the leaf's length and `PATH_HASHES_MAX`. The
    caller checks that `index` and `leaf_count` are the ones that it asked about.
    """
    if not 0 <= proof.index < proof.leaf_count <= LEAVES_MAX:
        return False
    if len(proof.path) > PATH_HASHES_MAX or any(len(h) != HASH_BYTES for h in proof.path):
        return False
    at, last = proof.index, proof.leaf_count - 1
    value = leaf_hash(leaf)
    for sibling in proof.path:
        if last == 0:
            return False
        if at & 1 or at == last:
            value = _node_hash(sibling, value)
            while at and not at & 1:  # the last node of an odd level rises as it is
                at, last = at >> 1, last >> 1
        else:
            value = _node_hash(value, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and value == root


def _node_hash(left: Digest, right: Digest) -> Digest:
    return Digest(hashlib.sha256(b"\x01" + left + right).digest())


def _levels(hashes: list[Digest]) -> list[list[Digest]]:
    """All levels from the leaves to the root; an odd last node moves up unhashed."""
    if len(hashes) > LEAVES_MAX:
        raise MerkleError(f"a tree has at most {LEAVES_MAX} leaves, not {len(hashes)}")
    levels = [hashes]
    while len(hashes) > 1:
        pairs = zip(hashes[::2], hashes[1::2], strict=False)
        odd = hashes[-1:] if len(hashes) & 1 else []
        hashes = [_node_hash(left, right) for left, right in pairs] + odd
        levels.append(hashes)
    return levels


ADDRESS_BYTES: Final = 20
AMOUNT_MAX: Final = (1 << 256) - 1


class PayoutTree:
    """What each account has earned so far, in the form against which the ledger checks claims.

    The tree of `@openzeppelin/merkle-tree`'s `StandardMerkleTree` over (address, uint256): leaves
    are double Keccak-256 of the ABI encoding, sorted; the nodes fill an array from its end; each
    pair is hashed in sorted order, as `MerkleProof.processProof` does.
    """

    __slots__ = ("_nodes", "_place", "cumulative", "total")

    cumulative: Mapping[Address, int]
    total: int

    def __init__(self, cumulative: Mapping[Address, int]) -> None:
        """`cumulative` gives base units for each account.

        Raises `MerkleError` for an account that is not 20 bytes, or for an amount or a total
        beyond uint256.
        """
        leaves = sorted(
            (_payout_leaf(account, cumulative[account]), account) for account in cumulative
        )
        self.cumulative = dict(cumulative)
        self.total = sum(cumulative.values())
        if self.total > AMOUNT_MAX:
            raise MerkleError(f"a total of {self.total} does not fit uint256")
        count = len(leaves)
        nodes = [EMPTY_PAYOUT_ROOT] * max(2 * count - 1, 1)
        self._place: dict[Address, int] = {}
        for rank, (leaf, account) in enumerate(leaves):
            place = len(nodes) - 1 - rank
            nodes[place], self._place[account] = leaf, place
        for place in range(count - 2, -1, -1):
            nodes[place] = _sorted_pair_hash(nodes[2 * place + 1], nodes[2 * place + 2])
        self._nodes = nodes

    @property
    def root(self) -> Digest:
        """What validators attest; 32 zero bytes for an empty table."""
        return self._nodes[0]

    def proof(self, account: Address) -> tuple[Digest, ...]:
        """Siblings from the account's leaf up. Raises `MerkleError` for an account not in it."""
        if account not in self._place:
            raise MerkleError(f"account 0x{account.hex()} is not in the payout table")
        place = self._place[account]
        path = []
        while place > 0:
            path.append(self._nodes[place + 1 if place & 1 else place - 1])
            place = (place - 1) // 2
        return tuple(path)


def payout_root(payouts: Iterable[Payout]) -> Digest:
    """The root that the ledger checks claims against, of a record's payout table."""
    return PayoutTree({payout.account: payout.cumulative for payout in payouts}).root


def verify_payout(root: Digest, account: Address, cumulative: int, proof: Sequence[Digest]) -> bool:
    """Whether a payout table with this root pays `account` that much (OpenZeppelin `MerkleProof`).

    Total on a peer's bytes; at most `PATH_HASHES_MAX` hashes.
    """
    if len(proof) > PATH_HASHES_MAX or any(len(sibling) != HASH_BYTES for sibling in proof):
        return False
    if len(account) != ADDRESS_BYTES or not 0 <= cumulative <= AMOUNT_MAX:
        return False
    value = _payout_leaf(account, cumulative)
    for sibling in proof:
        value = _sorted_pair_hash(value, sibling)
    return value == root


def _payout_leaf(account: Address, cumulative: int) -> Digest:
    """`keccak256(keccak256(abi.encode(account, cumulative)))`."""
    if len(account) != ADDRESS_BYTES:
        raise MerkleError(f"an account has {ADDRESS_BYTES} bytes, not {len(account)}")
    if not 0 <= cumulative <= AMOUNT_MAX:
        raise MerkleError(f"0x{account.hex()}: {cumulative} does not fit uint256")
    return keccak256(keccak256(bytes(12) + account + cumulative.to_bytes(32)))


def _sorted_pair_hash(one: Digest, other: Digest) -> Digest:
    return keccak256(one + other if one < other else other + one)
