"""CKKS between an owner and an evaluator: what is accepted, and every kind of bytes that is not."""

from functools import cache

import numpy as np
import pytest
import tenseal as ts

from eigen.crypto.ckks import bundle
from eigen.crypto.ckks.evaluation import EvaluationKeys
from eigen.crypto.ckks.parameters import (
    DEGREE,
    MODULUS_BITS_MAX,
    PRIME_BITS,
    SCALE,
    SECURITY_BITS,
    SLOTS,
    Parameters,
    parameters,
)
from eigen.crypto.ckks.secret import SecretKey
from eigen.crypto.errors import (
    InsecureParameters,
    MalformedCiphertext,
    SecretKeyInside,
    WrongContext,
)

STEPS = (1024, 2048)


@cache
def owner() -> SecretKey:
    return SecretKey.generate()


@cache
def published() -> bytes:
    return owner().evaluation_keys(STEPS)


@cache
def evaluator() -> EvaluationKeys:
    return EvaluationKeys(published(), STEPS)


def numbers(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, SLOTS)


def test_parameters_give_128_bits_by_the_standard_and_by_seal() -> None:
    assert SECURITY_BITS == 128
    assert sum(PRIME_BITS) <= MODULUS_BITS_MAX == 218
    assert len(parameters().primes) == len(parameters().levels) == 5
    with pytest.raises(InsecureParameters, match="security standard"):
        Parameters.make(DEGREE, (60, 60, 60, 60))
    with pytest.raises(InsecureParameters, match="security standard"):
        Parameters.make(4096, PRIME_BITS)


def test_what_is_encrypted_is_decrypted_after_an_addition() -> None:
    one, two = numbers(1), numbers(2)
    bundles = [bundle.pack([owner().encrypt(values)]) for values in (one, two)]
    [item] = evaluator().add(bundles, 1, 0, SCALE)
    assert [item] == list(evaluator().add(bundles, 1, 0, SCALE)), "a digest proves the work"
    assert np.abs(owner().decrypt(item, 0, SCALE) - one - two).max() < 1e-4


def test_ciphertexts_and_keys_are_half_as_long_as_they_would_be() -> None:
    item = owner().encrypt(numbers())
    loaded = evaluator().load(item, 0, SCALE)
    from eigen.crypto.ckks.seal_bytes import save

    assert len(item) < 0.51 * len(save(loaded))
    usual = ts.context(ts.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(PRIME_BITS))
    usual.generate_galois_keys()
    assert len(published()) < 0.15 * len(usual.serialize(save_secret_key=False))


def test_a_key_goes_through_bytes_and_shows_nothing() -> None:
    again = SecretKey.from_bytes(owner().to_bytes())
    assert np.abs(again.decrypt(owner().encrypt(numbers()), 0, SCALE) - numbers()).max() < 1e-4
    assert repr(again) == "SecretKey()"


def test_a_ciphertext_of_another_owner_cannot_be_told_apart_and_decrypts_to_rubbish() -> None:
    """So an owner checks what it decrypts against what its data allow."""
    stranger = SecretKey.generate().encrypt(numbers())
    evaluator().load(stranger, 0, SCALE)
    assert np.abs(owner().decrypt(stranger, 0, SCALE)).max() > 1e3


@pytest.mark.parametrize("values", [np.array([np.nan]), np.array([np.inf]), np.zeros(SLOTS + 1)])
def test_numbers_that_have_no_encoding_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite ones"):
        owner().encrypt(values)


# a peer's bytes -----------------------------------------------------------------------------------
def test_keys_with_a_secret_key_among_them_are_refused_and_named() -> None:
    items = bundle.unpack(published(), count=2)
    secret = owner().to_bytes()
    for held in ([*items, secret], [secret, items[1]], [items[0], secret]):
        with pytest.raises(SecretKeyInside):
            EvaluationKeys(bundle.pack(held), STEPS)
    with pytest.raises(SecretKeyInside):
        evaluator().load(secret, 0, SCALE)


def test_keys_of_other_parameters_or_rotations_are_refused() -> None:
    other = Parameters.make(DEGREE, (40, 30, 30, 40))
    import tenseal.sealapi as seal

    from eigen.crypto.ckks.seal_bytes import save

    keys = save(seal.KeyGenerator(other.context).create_relin_keys())
    with pytest.raises(WrongContext, match="do not fit our parameters"):
        EvaluationKeys(bundle.pack([keys]), ())
    with pytest.raises(WrongContext, match="other rotations"):
        EvaluationKeys(published(), (512, 1024))
    with pytest.raises(WrongContext, match="other rotations"):
        EvaluationKeys(published(), (1024,))
    with pytest.raises(MalformedCiphertext, match="a bundle of 2"):
        EvaluationKeys(published(), ())


def test_truncated_oversized_and_rewritten_bundles_are_refused() -> None:
    whole = bundle.pack([owner().encrypt(numbers())])
    for bad in (b"", whole[:7], whole[:12], whole[:-1], whole + b"\0", b"X" + whole[1:]):
        with pytest.raises(MalformedCiphertext):
            bundle.unpack(bad, count=1)
    with pytest.raises(MalformedCiphertext, match="a bundle of 1 where 2"):
        bundle.unpack(whole + bytes(4), count=2)
    claimed = whole[:12] + (bundle.ITEM_BYTES_MAX + 1).to_bytes(4, "little")
    with pytest.raises(MalformedCiphertext, match="at most"):
        bundle.unpack(claimed, count=1)


def test_bit_flips_are_either_refused_or_a_ciphertext_and_never_a_crash() -> None:
    """Ciphertexts are malleable: that is why digests are checked before any of this."""
    item = owner().encrypt(numbers())
    draw = np.random.default_rng(3)
    refused = 0
    for place in draw.integers(0, len(item), 60):
        data = bytearray(item)
        data[place] ^= 1 << int(draw.integers(8))
        try:
            evaluator().load(bytes(data), 0, SCALE)
        except MalformedCiphertext:
            refused += 1
    assert 0 < refused < 60, "some flips are noticed, most are not"
    for size in (0, 1, 15, 16, 100, len(item) - 1):
        with pytest.raises(MalformedCiphertext):
            evaluator().load(item[:size], 0, SCALE)


def test_another_level_or_scale_is_refused_on_both_sides() -> None:
    low = owner().encrypt(numbers(), level=3)
    odd = owner().encrypt(numbers(), scale=2.0**29)
    with pytest.raises(MalformedCiphertext, match="level"):
        evaluator().load(low, 0, SCALE)
    with pytest.raises(MalformedCiphertext, match="scale"):
        evaluator().load(odd, 0, SCALE)
    with pytest.raises(MalformedCiphertext, match="level"):
        owner().decrypt(low, 0, SCALE)
    with pytest.raises(MalformedCiphertext, match="scale"):
        owner().decrypt(odd, 0, SCALE)
