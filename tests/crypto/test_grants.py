"""A wrapped data key opens for one recipient in one context, until it expires."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eigen.crypto.errors import BadPublicKey, GrantExpired, KeyFileExists, WrongGrant
from eigen.crypto.grants import WRAPPED_KEY_BYTES, GrantContext, unwrap_key, wrap_key
from eigen.crypto.sealing import generate_data_key
from eigen.crypto.sealing_key import (
    PUBLIC_BYTES,
    SealingKeyPair,
    create_sealing_key,
    load_sealing_key,
)
from eigen.protocol.types import Address

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sealed_shard.json").read_text())

PAIR = SealingKeyPair(bytes(range(32)))
CONTEXT = GrantContext("k7c5xdgrnw5la3ox", "bafy", 3, Address(b"\x01" * 20), 2_000_000_000)
NOW_S = 1_900_000_000

contexts = st.builds(
    GrantContext,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=20, max_size=20).map(Address),
    st.integers(1, 2**64 - 1),
)


# Seeds and public keys of the test vectors in draft-connolly-cfrg-xwing-kem, appendix C.
@pytest.mark.parametrize(
    ("seed", "begins", "ends"),
    [
        (
            "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26",
            "e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5b19cfc3d",
            "eff389b27dce59844570216223593d4ba32d9abac8cd049040ef6534",
        ),
        (
            "badfd6dfaac359a5efbb7bcc4b59d538df9a04302e10c8bc1cbf1a0b3a5120ea",
            "0333285fa253661508c9fb444852caa4061636cb060e69943b431400134ae1fbc0228724",
            "cbb48fd4c562a576549f85b528c953926d96ea8a160b8843f1c89c62",
        ),
    ],
)
def test_key_pairs_are_x_wings(seed: str, begins: str, ends: str) -> None:
    public = SealingKeyPair(bytes.fromhex(seed)).public_bytes
    assert len(public) == PUBLIC_BYTES == 1216
    assert public.hex().startswith(begins)
    assert public.hex().endswith(ends)


@pytest.mark.parametrize("vector", VECTORS["grants"], ids=lambda vector: vector["name"])
def test_wrapped_keys_of_the_specification_open(vector: dict[str, Any]) -> None:
    pair = SealingKeyPair(bytes.fromhex(vector["seed"]))
    recipient = Address(bytes.fromhex(vector["recipient"]))
    context = GrantContext(
        vector["network"], vector["job"], vector["shard"], recipient, vector["expires_s"]
    )
    assert hashlib.sha256(pair.public_bytes).hexdigest() == vector["public_sha256"]
    assert context.info().hex() == vector["info"]
    wrapped = bytes.fromhex(vector["wrapped"])
    assert unwrap_key(wrapped, pair, context, now_s=NOW_S - 1).hex() == vector["data_key"]


@settings(max_examples=20)
@given(contexts, contexts)
def test_a_grant_opens_in_its_own_context_alone(one: GrantContext, other: GrantContext) -> None:
    data_key = generate_data_key()
    wrapped = wrap_key(data_key, PAIR.public_bytes, one)
    assert len(wrapped) == WRAPPED_KEY_BYTES == 1168
    assert unwrap_key(wrapped, PAIR, one, now_s=0) == data_key
    if one != other:
        with pytest.raises(WrongGrant):
            unwrap_key(wrapped, PAIR, other, now_s=0)


@given(contexts, contexts)
def test_contexts_have_one_encoding_each(one: GrantContext, other: GrantContext) -> None:
    assert (one.info() == other.info()) == (one == other)


@pytest.mark.parametrize(
    "change",
    [
        {"network": "other"},
        {"job": "other"},
        {"network": "k7c5xdgrnw5la3oxb", "job": "afy"},
        {"shard": 4},
        {"recipient": Address(b"\x02" * 20)},
        {"expires_s": 2_000_000_001},
        {"recipient": Address(b"\x02" * 19)},
        {"shard": -1},
        {"job": "x" * 257},
        {"job": "\ud800"},
    ],
)
def test_each_field_counts_also_a_malformed_one(change: dict[str, Any]) -> None:
    wrapped = wrap_key(generate_data_key(), PAIR.public_bytes, CONTEXT)
    with pytest.raises(WrongGrant):
        unwrap_key(wrapped, PAIR, replace(CONTEXT, **change), now_s=NOW_S)


def test_a_grant_ends() -> None:
    wrapped = wrap_key(generate_data_key(), PAIR.public_bytes, CONTEXT)
    assert unwrap_key(wrapped, PAIR, CONTEXT, now_s=1_999_999_999)
    with pytest.raises(GrantExpired, match="shard 3 ended at 2000000000"):
        unwrap_key(wrapped, PAIR, CONTEXT, now_s=2_000_000_000)


def test_nobody_else_can_open_it() -> None:
    wrapped = wrap_key(generate_data_key(), PAIR.public_bytes, CONTEXT)
    with pytest.raises(WrongGrant):
        unwrap_key(wrapped, SealingKeyPair.generate(), CONTEXT, now_s=NOW_S)


@settings(max_examples=50)
@example(1120 * 8 - 1)  # X25519 ignores this bit of a key (RFC 7748); the hybrid hashes it
@given(st.integers(0, WRAPPED_KEY_BYTES * 8 - 1))
def test_every_bit_of_a_wrapped_key_counts(bit: int) -> None:
    wrapped = bytearray(wrap_key(bytes(32), PAIR.public_bytes, CONTEXT))
    wrapped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WrongGrant):
        unwrap_key(bytes(wrapped), PAIR, CONTEXT, now_s=NOW_S)


@given(st.one_of(st.binary(max_size=64), st.binary(min_size=1168, max_size=1168)))
def test_any_bytes_are_refused(wrapped: bytes) -> None:
    with pytest.raises(WrongGrant):
        unwrap_key(wrapped, PAIR, CONTEXT, now_s=NOW_S)


@pytest.mark.parametrize(
    "public",
    [b"", PAIR.public_bytes[:-1], b"\xff" * 1216, PAIR.public_bytes[:1184] + bytes(32)],
    ids=["empty", "short", "no ML-KEM key", "low-order X25519 point"],
)
def test_bad_public_keys_are_the_peers_fault(public: bytes) -> None:
    with pytest.raises(BadPublicKey):
        wrap_key(bytes(32), public, CONTEXT)


def test_our_own_mistakes_are_value_errors() -> None:
    with pytest.raises(ValueError, match="data key has 32 bytes"):
        wrap_key(b"short", PAIR.public_bytes, CONTEXT)
    with pytest.raises(ValueError, match="address has 20 bytes"):
        wrap_key(bytes(32), PAIR.public_bytes, replace(CONTEXT, recipient=Address(b"")))
    with pytest.raises(ValueError, match="seed has 32 bytes"):
        SealingKeyPair(b"short")


def test_the_pair_is_kept_in_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "sealing.key"
    pair = create_sealing_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_sealing_key(path).public_bytes == pair.public_bytes
    assert pair.secret.hex() not in repr(pair)
    with pytest.raises(KeyFileExists):
        create_sealing_key(path)
