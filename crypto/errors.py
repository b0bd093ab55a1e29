"""The error tree of this folder; each docstring says whose fault the error is.

```
CryptoError
├── BadSignature          the peer's
├── BadPublicKey          the peer's
├── TypedDataError        ours: a caller built a statement that has no EIP-712 encoding
├── MerkleError           ours: a tree or a proof was asked for that cannot exist
├── KeyFileError          the user's; names the path and what to run
│   ├── KeyFileMissing
│   ├── KeyFileExists
│   ├── KeyFilePermissions
│   ├── KeyFileMalformed
│   ├── PassphraseMissing
│   └── WrongPassphrase
├── GrantError            the peer's: a wrapped data key that is not for us, or not any more
│   ├── WrongGrant
│   └── GrantExpired
├── SealedShardError      the peer's, or the disk's
│   ├── NotASealedShard
│   ├── UnsupportedVersion
│   ├── WrongKey
│   ├── WrongMetadata
│   ├── Corrupt
│   ├── Truncated
│   └── ShardTooLarge
└── HomomorphicError      the peer's, unless it says otherwise
    ├── InsecureParameters    ours: encryption parameters below 128 bits
    ├── MalformedCiphertext
    ├── WrongContext
    └── SecretKeyInside       the owner's: it published what it must keep
```
"""

from pathlib import Path


class CryptoError(Exception):
    """Base of everything that this folder raises on purpose."""


class BadSignature(CryptoError):
    """The bytes are no valid, canonical signature of the digest. The peer's fault."""


class BadPublicKey(CryptoError):
    """The bytes are no public key of the expected kind. The peer's fault."""


class TypedDataError(CryptoError):
    """A type string or a value has no EIP-712 encoding. Our fault."""


class MerkleError(CryptoError):
    """A tree or a proof was asked for that cannot exist. Our fault."""


class KeyFileError(CryptoError):
    """A key file cannot be used. The user's to mend; `path` is the file or its folder."""

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class KeyFileMissing(KeyFileError):
    """There is no such file."""


class KeyFileExists(KeyFileError):
    """A key file is never overwritten."""


class KeyFilePermissions(KeyFileError):
    """Somebody else could read or replace the file."""


class KeyFileMalformed(KeyFileError):
    """The content is neither 64 hex digits nor a version 3 key store."""


class PassphraseMissing(KeyFileError):
    """The file is encrypted and no source gave a passphrase."""


class WrongPassphrase(KeyFileError):
    """The passphrase does not match the file's MAC."""


class GrantError(CryptoError):
    """A wrapped data key cannot be used. The fault of the peer who granted it."""


class WrongGrant(GrantError):
    """Not wrapped to this key and this context, or altered on the way; HPKE cannot tell which."""


class GrantExpired(GrantError):
    """The grant ended before now."""


class SealedShardError(CryptoError):
    """A sealed shard cannot be opened. The fault of who served it, or of the disk."""


class NotASealedShard(SealedShardError):
    """The first bytes are not a sealed shard's header."""


class UnsupportedVersion(SealedShardError):
    """A sealed shard, in a version of the format that this node does not know."""


class WrongKey(SealedShardError):
    """The data key does not match the commitment in the header."""


class WrongMetadata(SealedShardError):
    """The shard is whole, but it is not the one that was asked for."""


class Corrupt(SealedShardError):
    """A chunk, or the header over which it is authenticated, was altered."""


class Truncated(SealedShardError):
    """The file ends before its last chunk."""


class ShardTooLarge(SealedShardError):
    """The header announces more plaintext than the caller, or the format, allows."""


class HomomorphicError(CryptoError):
    """Something about CKKS keys or ciphertexts is wrong."""


class InsecureParameters(HomomorphicError):
    """Encryption parameters that give less than 128 bits. Our fault."""


class MalformedCiphertext(HomomorphicError):
    """The bytes are no ciphertext, or none at the level and scale that it must have."""


class WrongContext(HomomorphicError):
    """Evaluation keys of other parameters, or other keys than the job needs."""


class SecretKeyInside(HomomorphicError):
    """A secret key was published. Its owner must be told: all that it encrypted is open."""
