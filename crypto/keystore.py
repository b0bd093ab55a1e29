"""Key files: 32 secret bytes, as hexadecimal digits or encrypted with a passphrase.

Knows no settings: who calls says which file, and how a passphrase is come by.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from eigen.crypto import keystore_v3
from eigen.crypto.errors import (
    KeyFileError,
    KeyFileMalformed,
    PassphraseMissing,
)
from eigen.crypto.identity import Identity
from eigen.crypto.private_files import read_private, write_private
from eigen.protocol.types import Address

__all__ = [
    "KeyFileError",
    "Passphrase",
    "address_in_key_file",
    "create_identity",
    "create_key_file",
    "load_identity",
    "load_key_file",
    "passphrase_source",
]

PASSPHRASE_VARIABLE: Final = "EIGEN_PASSPHRASE"  # noqa: S105 - its name, not its value

KEY_FILE_BYTES_MAX: Final = 16 * 1024
"""A key store has about 500 bytes; wallets add a few fields."""

PASSPHRASE_BYTES_MAX: Final = 4096
"""A long sentence, not a file named by mistake."""

Passphrase = Callable[[], bytes]
"""Called only when a file turns out to be encrypted; raises `PassphraseMissing`."""


def passphrase_source(
    file: Path | None, environ: Mapping[str, str], prompt: Callable[[], str] | None = None
) -> Passphrase:
    """Where passphrases come from: `file`, else the variable `EIGEN_PASSPHRASE`, else `prompt`.

    The file's first line counts; its mode must be 0600. `prompt` asks a person, and is None where
    nobody can be asked. Command lines are no source: other users can read them.
    """

    @functools.cache  # a person is asked once for all key files
    def ask() -> bytes:
        if file is not None:
            data = read_private(file, bytes_max=PASSPHRASE_BYTES_MAX, folder_too=False)
            passphrase, source = data.split(b"\n")[0].removesuffix(b"\r"), str(file)
        elif PASSPHRASE_VARIABLE in environ:
            passphrase, source = environ[PASSPHRASE_VARIABLE].encode(), PASSPHRASE_VARIABLE
        elif prompt is not None:
            passphrase, source = prompt().encode(), "what was typed"
        else:
            raise PassphraseMissing(
                "the key files are encrypted: name a file with their passphrase in the setting "
                f"keys.passphrase_file, or set {PASSPHRASE_VARIABLE}",
            )
        if not passphrase:
            raise PassphraseMissing(f"the passphrase is empty ({source})")
        return passphrase

    return ask


def load_key_file(
    path: Path, passphrase: Passphrase | None = None, *, folder_too: bool = True
) -> bytes:
    """The 32 secret bytes of a key file.

    `folder_too` False lets others into its folder: a key store that is brought from elsewhere.
    Decrypting takes about a second and 256 MiB. Raises `KeyFileMissing`, `KeyFilePermissions` where
    others could read or replace the file, `KeyFileMalformed`, `PassphraseMissing` or
    `WrongPassphrase`.
    """
    text = _read(path, folder_too=folder_too)
    if not text.startswith("{"):
        return bytes.fromhex(text)
    ask = passphrase or passphrase_source(None, {})
    try:
        return keystore_v3.decrypt(text, ask())
    except KeyFileError as error:
        raise type(error)(f"{path}: {error}", path) from error


def address_in_key_file(path: Path) -> Address | None:
    """The address of a node's key file without its passphrase; None where it does not show.

    An encrypted file may say anything here: `load_identity` alone proves an address. Raises what
    `load_key_file` raises, but for passphrases.
    """
    text = _read(path, folder_too=True)
    return keystore_v3.shown_address(text) if text.startswith("{") else load_identity(path).address


def _read(path: Path, *, folder_too: bool) -> str:
    """64 hexadecimal digits, or what looks like a key store."""
    data = read_private(path, bytes_max=KEY_FILE_BYTES_MAX, folder_too=folder_too)
    try:
        text = data.decode().strip()
    except UnicodeDecodeError as error:
        raise KeyFileMalformed(f"{path} is no text", path) from error
    if re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", text):
        return text.removeprefix("0x")
    if not text.startswith("{"):
        raise KeyFileMalformed(
            f"{path} holds neither 64 hexadecimal digits nor a version 3 key store", path
        )
    return text


def create_key_file(
    path: Path,
    secret: bytes,
    passphrase: bytes | None = None,
    *,
    address: Address | None = None,
    scrypt_n: int = keystore_v3.SCRYPT_N,
    folder_too: bool = True,
) -> None:
    """Write 32 secret bytes to a new key file, encrypted where there is a passphrase.

    `address` shows in an encrypted file, where the secret is an account's; `scrypt_n` is its cost.
    `folder_too` False lets others into its folder.
    Raises `KeyFileExists` or `KeyFilePermissions`, and leaves nothing behind then.
    """
    if passphrase is None:
        text = secret.hex() + "\n"
    else:
        text = keystore_v3.encrypt(secret, passphrase, address=address, scrypt_n=scrypt_n)
    write_private(path, text.encode(), folder_too=folder_too)


def load_identity(
    path: Path, passphrase: Passphrase | None = None, *, folder_too: bool = True
) -> Identity:
    """The identity whose secret a key file holds. Raises what `load_key_file` raises."""
    secret = load_key_file(path, passphrase, folder_too=folder_too)
    try:
        return Identity.from_secret(secret)
    except ValueError as error:
        raise KeyFileMalformed(f"{path}: {error}", path) from error


def create_identity(path: Path, passphrase: bytes | None = None) -> Identity:
    """A fresh identity, kept in a new key file. Raises what `create_key_file` raises."""
    identity = Identity.generate()
    create_key_file(path, identity.secret, passphrase, address=identity.address)
    return identity
