"""Version 3 key stores: 32 secret bytes encrypted with a passphrase, in Ethereum wallets' JSON.

The Web3 Secret Storage Definition, version 3: scrypt or PBKDF2, AES-128-CTR, Keccak-256 MAC.
Knows no files and no passphrase sources; the primitives are OpenSSL's.
"""

import hashlib
import hmac
import json
import re
import secrets
import uuid
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from eigen.crypto.errors import KeyFileError, KeyFileMalformed, WrongPassphrase
from eigen.crypto.hashing import keccak256
from eigen.protocol.types import Address

SECRET_BYTES: Final = 32
DERIVED_BYTES: Final = 32  # 16 for AES, 16 for the MAC

SCRYPT_N: Final = 1 << 18
"""The cost that wallets use by default: 256 MiB and about a second."""

SCRYPT_R: Final = 8
SCRYPT_P: Final = 1

SCRYPT_MEMORY_BYTES_MAX: Final = 1 << 30
"""A file from elsewhere may ask for more memory than ours, not for all of the machine's."""

SCRYPT_BLOCKS_MAX: Final = 1 << 26
"""Of n·r·p, 32 times ours: a file from elsewhere may take half a minute, not forever."""

PBKDF2_ROUNDS_MAX: Final = 10_000_000
"""Ten times what wallets use, for the same reason."""


def encrypt(
    secret: bytes, passphrase: bytes, *, address: Address | None = None, scrypt_n: int = SCRYPT_N
) -> str:
    """The key store, as JSON text, of a 32-byte secret.

    `address` is written in clear, as wallets show it; leave it out where the secret is no account.
    `scrypt_n` is the cost, a power of two; lower it in tests alone.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    salt, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    derived = _scrypt(salt, scrypt_n, SCRYPT_R, SCRYPT_P, passphrase)
    ciphertext = _aes_ctr(derived, iv, secret)
    store: dict[str, Any] = {
        "version": 3,
        "id": str(uuid.uuid4()),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": iv.hex()},
            "ciphertext": ciphertext.hex(),
            "kdf": "scrypt",
            "kdfparams": {
                "dklen": DERIVED_BYTES,
                "n": scrypt_n,
                "r": SCRYPT_R,
                "p": SCRYPT_P,
                "salt": salt.hex(),
            },
            "mac": keccak256(derived[16:32] + ciphertext).hex(),
        },
    }
    if address is not None:
        store["address"] = address.hex()
    return json.dumps(store, indent=1) + "\n"


def decrypt(text: str, passphrase: bytes) -> bytes:
    """The 32 secret bytes of a key store, ours or a wallet's.

    Raises `KeyFileMalformed` for what is no version 3 key store of 32 bytes or asks for too much
    work, `WrongPassphrase` where the MAC does not match.
    """
    store = _parse(text)
    if store.get("version") != 3:
        raise KeyFileMalformed(f"the key store's version is {store.get('version')!r}, not 3")
    crypto = _table(store, "crypto")
    if crypto.get("cipher") != "aes-128-ctr":
        raise KeyFileMalformed(f"the key store's cipher is {crypto.get('cipher')!r}, not known")
    ciphertext = _bytes(crypto, "ciphertext", SECRET_BYTES)
    iv = _bytes(_table(crypto, "cipherparams"), "iv", 16)
    derived = _derive(crypto.get("kdf"), _table(crypto, "kdfparams"), passphrase)
    if not hmac.compare_digest(keccak256(derived[16:32] + ciphertext), _bytes(crypto, "mac", 32)):
        raise WrongPassphrase("the passphrase is wrong, or the key store was altered")
    return _aes_ctr(derived, iv, ciphertext)


def shown_address(text: str) -> Address | None:
    """The address that a key store names in clear; None where it names none. Proves nothing."""
    try:
        return Address(_bytes(_parse(text), "address", 20))
    except KeyFileMalformed:
        return None


def _aes_ctr(derived: bytes, iv: bytes, data: bytes) -> bytes:
    context = Cipher(AES(derived[:16]), CTR(iv)).encryptor()
    return context.update(data) + context.finalize()


def _derive(kdf: object, parameters: Mapping[str, Any], passphrase: bytes) -> bytes:
    salt = _bytes(parameters, "salt", None)
    if _integer(parameters, "dklen", 64) < DERIVED_BYTES:
        raise KeyFileMalformed("the key store's dklen is under 32")
    # A longer derived key begins with the shorter one, and only 32 bytes are used.
    if kdf == "scrypt":
        n = _integer(parameters, "n", SCRYPT_MEMORY_BYTES_MAX)
        r = _integer(parameters, "r", 1 << 20)
        p = _integer(parameters, "p", 1 << 20)
        if n < 2 or n & (n - 1):
            raise KeyFileMalformed("the key store's n is no power of two")
        if n.bit_length() > 16 * r:
            raise KeyFileMalformed("the key store's n is too large for its r (RFC 7914, section 2)")
        if 128 * n * r > SCRYPT_MEMORY_BYTES_MAX or n * r * p > SCRYPT_BLOCKS_MAX:
            raise KeyFileMalformed("the key store's scrypt asks for too much memory or time")
        return _scrypt(salt, n, r, p, passphrase)
    if kdf == "pbkdf2" and parameters.get("prf") == "hmac-sha256":
        rounds = _integer(parameters, "c", PBKDF2_ROUNDS_MAX)
        return hashlib.pbkdf2_hmac("sha256", passphrase, salt, rounds, DERIVED_BYTES)
    raise KeyFileMalformed(f"the key store's key derivation {kdf!r} is not known")


def _scrypt(salt: bytes, n: int, r: int, p: int, passphrase: bytes) -> bytes:
    try:
        return Scrypt(salt, DERIVED_BYTES, n, r, p).derive(passphrase)
    except MemoryError as error:
        raise KeyFileError(f"the key store needs {128 * n * r >> 20} MiB of free memory") from error


def _parse(text: str) -> dict[str, Any]:
    try:
        store = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KeyFileMalformed(f"not JSON: {error}") from error
    if not isinstance(store, dict):
        raise KeyFileMalformed("JSON, but no key store")
    # Some wallets write "Crypto".
    return {key.lower(): value for key, value in store.items()}


def _table(store: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = store.get(name)
    if not isinstance(table, dict):
        raise KeyFileMalformed(f"the key store has no {name}")
    return table


def _bytes(table: Mapping[str, Any], name: str, length: int | None) -> bytes:
    text = table.get(name)
    if not isinstance(text, str) or not re.fullmatch(r"(0x)?([0-9a-fA-F]{2}){0,64}", text):
        raise KeyFileMalformed(f"the key store's {name} is no hexadecimal text")
    data = bytes.fromhex(text.removeprefix("0x"))
    if length is not None and len(data) != length:
        raise KeyFileMalformed(f"the key store's {name} has {len(data)} bytes, not {length}")
    return data


def _integer(table: Mapping[str, Any], name: str, most: int) -> int:
    value = table.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise KeyFileMalformed(f"the key store's {name} is not a number from 1 to {most}")
    return value
