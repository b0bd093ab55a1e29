"""Commitment trees follow RFC 9162; payout trees are OpenZeppelin's, checked with its vectors."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eigen.crypto.errors import MerkleError
from eigen.crypto.merkle import (
    LEAVES_MAX,
    PATH_HASHES_MAX,
    CommitmentTree,
    InclusionProof,
    PayoutTree,
    leaf_hash,
    verify_inclusion,
    verify_payout,
)
from eigen.protocol.types import Address, Digest

leaf_lists = st.lists(st.binary(max_size=8), max_size=40)
some_leaves = st.lists(st.binary(max_size=8), min_size=1, max_size=40)
accounts = st.binary(min_size=20, max_size=20).map(Address)
amounts = st.integers(0, 2**250)
tables = st.dictionaries(accounts, amounts, max_size=20)
full_tables = st.dictionaries(accounts, amounts, min_size=1, max_size=20)
hashes = st.binary(min_size=32, max_size=32).map(Digest)

VECTORS = json.loads(Path(__file__).with_name("payout_tree_vectors.json").read_text())


def rfc_root(leaves: list[bytes]) -> bytes:
    """The recursive definition of RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + rfc_root(leaves[:k]) + rfc_root(leaves[k:])).digest()


@given(leaf_lists)
def test_the_root_is_the_rfcs(leaves: list[bytes]) -> None:
    tree = CommitmentTree(leaves)
    assert tree.root == rfc_root(leaves)
    assert CommitmentTree.from_leaf_hashes(map(leaf_hash, leaves)).root == tree.root
    assert len(tree) == len(leaves)


def test_a_published_root() -> None:
    # The test tree of the Certificate Transparency code base, eight leaves.
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
    leaves.append("606162636465666768696a6b6c6d6e6f")
    assert CommitmentTree(map(bytes.fromhex, leaves)).root.hex() == (
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    )


@given(some_leaves)
def test_every_leaf_has_a_proof_and_only_at_its_place(leaves: list[bytes]) -> None:
    tree = CommitmentTree(leaves)
    for index, leaf in enumerate(leaves):
        proof = tree.prove(index)
        assert verify_inclusion(tree.root, leaf, proof)
        assert not verify_inclusion(tree.root, leaf + b"x", proof)
        elsewhere = (index + 1) % len(leaves)
        if leaves[elsewhere] != leaf:
            assert not verify_inclusion(tree.root, leaf, replace(proof, index=elsewhere))


@given(some_leaves, st.data())
def test_an_altered_proof_fails(leaves: list[bytes], data: st.DataObject) -> None:
    tree = CommitmentTree(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = tree.prove(index)
    path = data.draw(
        st.one_of(
            st.just((*proof.path, Digest(bytes(32)))),
            st.just(proof.path[1:]),
            st.just(proof.path[::-1]),
            st.lists(hashes, max_size=40).map(tuple),
        )
    )
    assume(path != proof.path)
    assert not verify_inclusion(tree.root, leaves[index], replace(proof, path=path))


@given(
    hashes,
    st.binary(max_size=8),
    st.integers(-3, LEAVES_MAX + 3),
    st.integers(-3, LEAVES_MAX + 3),
    st.lists(st.binary(max_size=40).map(Digest), max_size=PATH_HASHES_MAX + 4),
)
def test_verification_is_total(
    root: Digest, leaf: bytes, index: int, leaf_count: int, path: list[Digest]
) -> None:
    assert not verify_inclusion(root, leaf, InclusionProof(index, leaf_count, tuple(path)))


def test_an_inner_node_is_no_leaf() -> None:
    leaves = [b"a", b"b", b"c", b"d"]
    tree = CommitmentTree(leaves)
    left = leaf_hash(b"a") + leaf_hash(b"b")
    right = CommitmentTree([b"c", b"d"]).root
    assert not verify_inclusion(tree.root, left, InclusionProof(0, 2, (right,)))


def test_trees_refuse_what_cannot_be_proved() -> None:
    with pytest.raises(MerkleError, match="leaf 2 of a tree with 2"):
        CommitmentTree([b"a", b"b"]).prove(2)
    with pytest.raises(MerkleError, match="leaf 0 of a tree with 0"):
        CommitmentTree([]).prove(0)
    with pytest.raises(MerkleError, match="32 bytes"):
        CommitmentTree.from_leaf_hashes([Digest(b"short")])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{len(vector['rows'])} rows")
def test_payout_trees_are_openzeppelins(vector: dict[str, Any]) -> None:
    rows = [
        (
            Address(bytes.fromhex(row["account"][2:])),
            int(row["amount"]),
            tuple(Digest(bytes.fromhex(h[2:])) for h in row["proof"]),
        )
        for row in vector["rows"]
    ]
    tree = PayoutTree({account: amount for account, amount, _ in rows})
    assert f"0x{tree.root.hex()}" == vector["root"]
    for account, amount, proof in rows:
        assert tree.proof(account) == proof
        assert verify_payout(tree.root, account, amount, proof)


@given(full_tables)
def test_every_account_proves_its_amount_and_no_other(table: dict[Address, int]) -> None:
    tree = PayoutTree(table)
    assert tree.total == sum(table.values())
    for account, amount in table.items():
        proof = tree.proof(account)
        assert verify_payout(tree.root, account, amount, proof)
        assert not verify_payout(tree.root, account, amount + 1, proof)
        stranger = Address(hashlib.sha256(account).digest()[:20])
        assert not verify_payout(tree.root, stranger, amount, proof)


@given(hashes, accounts, amounts, st.lists(st.binary(max_size=40).map(Digest), max_size=40))
def test_payout_verification_is_total(
    root: Digest, account: Address, amount: int, proof: list[Digest]
) -> None:
    assert not verify_payout(root, account, amount, proof)


def test_payout_verification_refuses_lengths_that_abi_encoding_would_not_have() -> None:
    tree = PayoutTree({Address(b"\x01" * 20): 5})
    assert verify_payout(tree.root, Address(b"\x01" * 20), 5, ())
    assert not verify_payout(tree.root, Address(b"\x01" * 19), 5, ())
    assert not verify_payout(tree.root, Address(b"\x01" * 20), -1, ())
    assert not verify_payout(tree.root, Address(b"\x01" * 20), 2**256, ())


@given(tables)
def test_the_order_of_rows_does_not_matter(table: dict[Address, int]) -> None:
    assert PayoutTree(dict(reversed(table.items()))).root == PayoutTree(table).root


def test_the_empty_table_has_the_zero_root() -> None:
    assert PayoutTree({}).root == bytes(32)
    assert PayoutTree({}).total == 0
    with pytest.raises(MerkleError, match="not in the payout table"):
        PayoutTree({}).proof(Address(b"\x01" * 20))


def test_payout_tables_that_the_ledger_could_not_hold_are_refused() -> None:
    with pytest.raises(MerkleError, match="20 bytes, not 3"):
        PayoutTree({Address(b"abc"): 1})
    with pytest.raises(MerkleError, match="uint256"):
        PayoutTree({Address(bytes(20)): 2**256})
    with pytest.raises(MerkleError, match="total"):
        PayoutTree({Address(bytes(20)): 2**256 - 1, Address(b"\x01" * 20): 1})
