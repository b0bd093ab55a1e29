"""Makes tests/vectors/sealed_shard.json from the specification alone, without our own code.

Run: python tests/crypto/sealed_shard_vectors.py > tests/vectors/sealed_shard.json
Wrapped keys are random, so each run gives other ones; all of them must open.
"""

import hashlib
import hmac
import json

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite

CHUNK_BYTES = 1024 * 1024


def stream(label: str, length: int) -> bytes:
    """Bytes that anybody can make again."""
    return hashlib.shake_128(label.encode()).digest(length)


def hkdf(key: bytes, salt: bytes, info: bytes) -> tuple[bytes, bytes]:
    """RFC 5869 with SHA-256, two blocks."""
    prk = hmac.digest(salt, key, "sha256")
    first = hmac.digest(prk, info + b"\x01", "sha256")
    return first, hmac.digest(prk, first + info + b"\x02", "sha256")


def seal(
    plaintext: bytes, metadata: bytes, data_key: bytes, salt: bytes, prefix: bytes
) -> tuple[bytes, bytes]:
    """Header and sealed shard, step by step as docs/sealed-shards.md has it."""
    key, commitment = hkdf(data_key, salt, b"eigen/sealed-shard/1")
    header = b"EIGSHARD" + (1).to_bytes(2) + len(metadata).to_bytes(2)
    header += len(plaintext).to_bytes(8) + salt + prefix + commitment + metadata
    associated = hashlib.sha256(header).digest()
    sealed = header
    count = max(1, (len(plaintext) + CHUNK_BYTES - 1) // CHUNK_BYTES)
    for number in range(count):
        chunk = plaintext[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        nonce = prefix + number.to_bytes(4) + bytes([number == count - 1])
        sealed += AESGCM(key).encrypt(nonce, chunk, associated)
    return header, sealed


def shard_vector(name: str, length: int, metadata: str) -> dict[str, object]:
    """One shard; large ones are given by the hash of their bytes."""
    data_key, salt, prefix = (
        stream(f"{name} key", 32),
        stream(f"{name} salt", 32),
        stream(f"{name} prefix", 7),
    )
    header, sealed = seal(
        stream(f"{name} plaintext", length), metadata.encode(), data_key, salt, prefix
    )
    vector = {
        "name": name,
        "plaintext": f"SHAKE128('{name} plaintext')",
        "plaintext_bytes": length,
        "metadata": metadata,
        "data_key": data_key.hex(),
        "salt": salt.hex(),
        "nonce_prefix": prefix.hex(),
        "header": header.hex(),
        "sealed_bytes": len(sealed),
        "sealed_sha256": hashlib.sha256(sealed).hexdigest(),
    }
    if length < 1000:
        vector["sealed"] = sealed.hex()
    return vector


def grant_vector(name: str, shard: int, expires_s: int) -> dict[str, object]:
    """One wrapped key."""
    seed, data_key = stream(f"{name} seed", 32), stream(f"{name} key", 32)
    recipient = stream(f"{name} recipient", 20)
    expanded = hashlib.shake_256(seed).digest(96)
    mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
    public = MLKEM768X25519PrivateKey(mlkem, x25519).public_key()
    network, job = "k7c5xdgrnw5la3ox", "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
    fields = [b"eigen/grant/1", network.encode(), job.encode(), shard.to_bytes(4)]
    fields += [recipient, expires_s.to_bytes(8)]
    info = b"".join(len(field).to_bytes(2) + field for field in fields)
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    return {
        "name": name,
        "seed": seed.hex(),
        "public_sha256": hashlib.sha256(
            mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        ).hexdigest(),
        "network": network,
        "job": job,
        "shard": shard,
        "recipient": recipient.hex(),
        "expires_s": expires_s,
        "info": info.hex(),
        "data_key": data_key.hex(),
        "wrapped": suite.encrypt(data_key, public, info=info).hex(),
    }


if __name__ == "__main__":
    small = '{"job":"a","shard":3}'
    shards = [
        shard_vector("empty", 0, "{}"),
        shard_vector("small", 100, small),
        shard_vector("text", 17, '{"note":"Zürich \\"1\\"\\n","shard":-1}'),
        shard_vector("one chunk", CHUNK_BYTES, small),
        shard_vector("one byte more", CHUNK_BYTES + 1, small),
        shard_vector("three chunks", 2 * CHUNK_BYTES + 12345, small),
    ]
    grants = [grant_vector("first", 0, 1_900_000_000), grant_vector("last", 2**32 - 1, 2**64 - 1)]
    print(json.dumps({"shards": shards, "grants": grants}, indent=1, ensure_ascii=False))
