"""Identities sign as wallets do, and recovery is total on hostile bytes."""

import pytest
from coincurve import PrivateKey
from eth_account import Account
from eth_keys import KeyAPI
from eth_keys.backends import NativeECCBackend
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.crypto.errors import BadPublicKey
from eigen.crypto.identity import CURVE_ORDER, BadSignature, Identity, address_of, recover
from eigen.protocol.types import Address, Digest

# Pure Python, so that it shares no code with libsecp256k1, and slow.
keys = KeyAPI(NativeECCBackend)

secrets = st.integers(1, CURVE_ORDER - 1).map(lambda scalar: scalar.to_bytes(32))
digests = st.binary(min_size=32, max_size=32).map(Digest)


def test_the_address_is_the_one_of_the_yellow_paper() -> None:
    identity = Identity.from_secret((1).to_bytes(32))
    assert identity.address.hex() == "7e5f4552091a69125d5dfcb7b8c2659029395bdf"
    assert identity.public_key.hex() == (
        "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    )


@settings(max_examples=25, deadline=None)
@given(secrets, digests)
def test_a_signature_is_what_eth_keys_makes(secret: bytes, digest: Digest) -> None:
    identity = Identity.from_secret(secret)
    signature = identity.sign(digest)
    theirs = keys.PrivateKey(secret).sign_msg_hash(digest)

    assert signature == theirs.to_bytes()[:64] + bytes([theirs.v + 27])
    assert recover(digest, signature) == identity.address
    assert identity.address == bytes.fromhex(Account.from_key(secret).address[2:])
    assert address_of(identity.public_key) == identity.address


@given(st.binary(max_size=70), st.binary(max_size=40))
def test_recovery_is_total_on_any_bytes(signature: bytes, digest: bytes) -> None:
    try:
        address = recover(Digest(digest), signature)
    except BadSignature:
        return
    assert len(address) == 20


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=64, max_size=64), st.sampled_from([27, 28]), digests)
def test_recovery_agrees_with_eth_keys_on_random_signatures(
    body: bytes, v: int, digest: Digest
) -> None:
    def theirs() -> Address | None:
        if int.from_bytes(body[32:]) > CURVE_ORDER // 2:
            return None
        try:
            signature = keys.Signature(body + bytes([v - 27]))
            key = signature.recover_public_key_from_msg_hash(digest)
        except Exception:
            return None
        return Address(key.to_canonical_address())

    try:
        ours: Address | None = recover(digest, body + bytes([v]))
    except BadSignature:
        ours = None
    assert ours == theirs()


def test_the_malleable_twin_of_a_signature_is_refused() -> None:
    identity, digest = Identity.generate(), Digest(b"\x07" * 32)
    signature = identity.sign(digest)
    s = CURVE_ORDER - int.from_bytes(signature[32:64])
    twin = signature[:32] + s.to_bytes(32) + bytes([55 - signature[64]])
    # The twin is a true ECDSA signature of the same key: it is refused for its upper-half s alone.
    assert keys.Signature(twin[:64] + bytes([twin[64] - 27])).recover_public_key_from_msg_hash(
        digest
    ) == keys.PublicKey.from_compressed_bytes(identity.public_key)
    with pytest.raises(BadSignature, match="upper half"):
        recover(digest, twin)


@pytest.mark.parametrize("v", [0, 1, 2, 26, 29, 30, 255])
def test_v_is_27_or_28_only(v: int) -> None:
    signature = Identity.generate().sign(Digest(b"\x01" * 32))
    with pytest.raises(BadSignature, match="27 or 28"):
        recover(Digest(b"\x01" * 32), signature[:64] + bytes([v]))


@pytest.mark.parametrize("secret", [b"", b"\x01", b"\0" * 32, CURVE_ORDER.to_bytes(32), b"a" * 33])
def test_secrets_outside_the_field_are_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="secp256k1 secret"):
        Identity.from_secret(secret)


def test_sign_takes_digests_only() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Identity.generate().sign(Digest(b"hello"))


@given(st.binary(max_size=70))
def test_public_keys_of_peers_are_checked(data: bytes) -> None:
    try:
        address_of(data)
    except BadPublicKey:
        return
    assert len(data) in (33, 65)


def test_the_secret_stays_out_of_repr() -> None:
    identity = Identity.generate()
    assert identity.secret.hex() not in repr(identity)
    assert identity.address.hex() in repr(identity)
    assert identity == Identity(PrivateKey(identity.secret))
    assert len({identity, Identity.from_secret(identity.secret)}) == 1
