"""What an owner's node keeps of one private job in its home: rows, sealed secret key, result."""

import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from eigen.crypto.errors import KeyFileMalformed
from eigen.crypto.identity import Identity
from eigen.crypto.private_files import read_private, write_private

SECRET_BYTES_MAX = 1 << 20
"""A CKKS secret key has 250 kB."""
NONCE_BYTES = 12


class JobFolder:
    """A folder of mode 0700, named after the moment at which the job was made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def result(self) -> Path:
        """Where the trained head is written."""
        return self.path / "model.safetensors"

    @property
    def _secret(self) -> Path:
        return self.path / "secret.key"

    def keep_secret(self, identity: Identity, secret: bytes) -> None:
        """Keep the job's secret key, sealed under the node's own. Raises a `KeyFileError`."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher(identity).encrypt(nonce, secret, None)
        write_private(self._secret, nonce + sealed, folder_too=True)

    def secret(self, identity: Identity) -> bytes:
        """The job's secret key. Raises a `KeyFileError`."""
        data = read_private(self._secret, bytes_max=SECRET_BYTES_MAX, folder_too=True)
        try:
            return self._cipher(identity).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], None)
        except InvalidTag:
            raise KeyFileMalformed(
                f"{self._secret} was altered, or is another node's", self._secret
            ) from None

    def _cipher(self, identity: Identity) -> AESGCM:
        info = b"eigen/ckks-secret/1" + self.path.name.encode()
        return AESGCM(HKDF(SHA256(), 32, None, info).derive(identity.secret))
