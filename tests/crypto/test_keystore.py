"""Key files are private, whole, never overwritten, and wallets can read them."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eth_keyfile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.crypto import keystore_v3
from eigen.crypto.errors import (
    KeyFileError,
    KeyFileExists,
    KeyFileMalformed,
    KeyFileMissing,
    KeyFilePermissions,
    PassphraseMissing,
    WrongPassphrase,
)
from eigen.crypto.identity import Identity
from eigen.crypto.keystore import (
    address_in_key_file,
    create_identity,
    create_key_file,
    load_identity,
    load_key_file,
    passphrase_source,
)

SECRET = bytes(range(1, 33))
CHEAP = 2  # scrypt cost for tests


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "node.key"


def test_a_raw_key_file_holds_the_identity(path: Path) -> None:
    identity = create_identity(path)
    assert load_identity(path) == identity
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["node.key"]


def test_an_encrypted_key_file_opens_with_its_passphrase_alone(path: Path) -> None:
    identity = Identity.from_secret(SECRET)
    create_key_file(path, SECRET, b"open sesame", address=identity.address, scrypt_n=CHEAP)
    assert SECRET.hex() not in path.read_text()
    assert load_identity(path, lambda: b"open sesame") == identity
    assert json.loads(path.read_text())["address"] == identity.address.hex()
    with pytest.raises(WrongPassphrase, match=str(path)):
        load_identity(path, lambda: b"open barley")
    with pytest.raises(PassphraseMissing, match="EIGEN_PASSPHRASE"):
        load_identity(path)


def test_raw_files_with_prefix_and_space_are_read(path: Path) -> None:
    create_key_file(path, SECRET)
    path.write_text(f"  0x{SECRET.hex().upper()}\n\n")
    assert load_key_file(path) == SECRET


def test_an_address_shows_without_a_passphrase(path: Path) -> None:
    address = Identity.from_secret(SECRET).address
    create_key_file(path, SECRET)
    assert address_in_key_file(path) == address
    other = path.with_name("other.key")
    create_key_file(other, SECRET, b"pw", address=address, scrypt_n=CHEAP)
    assert address_in_key_file(other) == address
    third = path.with_name("third.key")
    create_key_file(third, SECRET, b"pw", scrypt_n=CHEAP)
    assert address_in_key_file(third) is None
    third.write_text('{"address": "zz"}')
    assert address_in_key_file(third) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_file_that_others_can_use_is_refused(path: Path, mode: int) -> None:
    create_key_file(path, SECRET)
    path.chmod(mode)
    with pytest.raises(KeyFilePermissions, match=f"chmod 600 {path}"):
        load_key_file(path)
    path.chmod(0o400)
    assert load_key_file(path) == SECRET


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o711])
def test_a_folder_that_others_can_use_is_refused(path: Path, mode: int) -> None:
    create_key_file(path, SECRET)
    path.parent.chmod(mode)
    with pytest.raises(KeyFilePermissions, match=f"chmod 700 {path.parent}"):
        load_key_file(path)
    with pytest.raises(KeyFilePermissions, match=f"chmod 700 {path.parent}"):
        create_key_file(path.with_name("other.key"), SECRET)
    assert not path.with_name("other.key").exists()


def test_the_command_in_the_message_can_be_pasted(tmp_path: Path) -> None:
    path = tmp_path / "my keys" / "node.key"
    create_key_file(path, SECRET)
    path.chmod(0o644)
    with pytest.raises(KeyFilePermissions) as caught:
        load_key_file(path)
    assert os.system(str(caught.value).split("run: ")[1]) == 0
    assert load_key_file(path) == SECRET


def test_somebody_elses_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_key_file(path, SECRET)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(KeyFilePermissions, match=r"another user; run: chown \d+ "):
        load_key_file(path)


def test_nothing_is_ever_overwritten(path: Path) -> None:
    create_key_file(path, SECRET)
    with pytest.raises(KeyFileExists, match="never overwritten"):
        create_key_file(path, bytes(32))
    assert load_key_file(path) == SECRET
    assert [file.name for file in path.parent.iterdir()] == ["node.key"]


def test_a_failed_write_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full_disk(fd: int) -> None:
        calls.append(fd)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(KeyFileError, match="No space left"):
        create_key_file(path, SECRET)
    assert calls
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: None, KeyFileMissing, "there is no file"),
        (lambda path: path.mkdir(), KeyFilePermissions, "no regular file"),
        (lambda path: os.mkfifo(path, 0o600), KeyFilePermissions, "no regular file"),
        (lambda path: path.symlink_to("/etc/passwd"), KeyFilePermissions, "symbolic link"),
        (lambda path: path.write_bytes(b"\xff"), KeyFileMalformed, "is no text"),
        (lambda path: path.write_bytes(b""), KeyFileMalformed, "neither 64 hexadecimal"),
        (lambda path: path.write_bytes(b"12" * 31), KeyFileMalformed, "neither 64 hexadecimal"),
        (lambda path: path.write_bytes(b"0" * 20_000), KeyFileMalformed, "over 16384 bytes"),
        (lambda path: path.write_bytes(b"00" * 32), KeyFileMalformed, "curve's order"),
        (lambda path: path.write_bytes(b"{"), KeyFileMalformed, "not JSON"),
    ],
)
def test_what_is_no_key_file(
    path: Path, make: Callable[[Path], object], error: type[KeyFileError], message: str
) -> None:
    path.parent.mkdir(mode=0o700)
    make(path)
    if path.exists() and not path.is_symlink():
        path.chmod(0o600)
    with pytest.raises(error, match=message) as caught:
        load_identity(path, lambda: b"x")
    assert str(path) in str(caught.value)
    assert caught.value.path == path


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=32, max_size=32).filter(any), st.binary(min_size=1, max_size=40))
def test_wallets_read_ours(secret: bytes, passphrase: bytes) -> None:
    store = json.loads(keystore_v3.encrypt(secret, passphrase, scrypt_n=CHEAP))
    assert eth_keyfile.decode_keyfile_json(store, passphrase) == secret


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
def test_we_read_wallets(kdf: Any) -> None:
    store = eth_keyfile.create_keyfile_json(SECRET, b"pw", kdf=kdf, iterations=4)
    assert keystore_v3.decrypt(json.dumps(store), b"pw") == SECRET
    store["Crypto"] = store.pop("crypto")
    assert keystore_v3.decrypt(json.dumps(store), b"pw") == SECRET


# The PBKDF2 vector of the Web3 Secret Storage Definition. Its scrypt vector has n = 2^18 with
# r = 1, which RFC 7914 rules out; wallets use r = 8, as `eth_keyfile` does above.
DEFINITION = {
    "version": 3,
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2",
        "kdfparams": {
            "c": 262144,
            "dklen": 32,
            "prf": "hmac-sha256",
            "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        },
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
    },
}


def test_the_definitions_vector() -> None:
    assert keystore_v3.decrypt(json.dumps(DEFINITION), b"testpassword").hex() == (
        "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
    )


def altered(**changes: object) -> str:
    store = json.loads(keystore_v3.encrypt(SECRET, b"pw", scrypt_n=CHEAP))
    for name, value in changes.items():
        table, _, inner = name.partition("__")
        target = store if not inner else store["crypto"]
        if table == "kdfparams":
            target = store["crypto"]["kdfparams"]
        target[inner or table] = value
    return json.dumps(store)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no key store"),
        ("[" * 5000, "not JSON"),
        (altered(version=4), "version is 4, not 3"),
        (altered(crypto=5), "has no crypto"),
        (altered(crypto__cipher="rot13"), "cipher is 'rot13'"),
        (altered(crypto__ciphertext="00"), "has 1 bytes, not 32"),
        (altered(crypto__ciphertext=7), "no hexadecimal text"),
        (altered(crypto__cipherparams={}), "iv is no hexadecimal text"),
        (altered(crypto__kdf="argon9"), "'argon9' is not known"),
        (altered(crypto__kdf="pbkdf2"), "'pbkdf2' is not known"),
        (altered(kdfparams__n=3), "no power of two"),
        (altered(kdfparams__n=True), "n is not a number"),
        (altered(kdfparams__n=1 << 22), "too much memory"),
        (altered(kdfparams__p=1 << 20, kdfparams__n=1 << 17), "too much memory or time"),
        (altered(kdfparams__n=1 << 18, kdfparams__r=1), "too large for its r"),
        (altered(kdfparams__dklen=16), "dklen is under 32"),
        (altered(kdfparams__salt="0g"), "salt is no hexadecimal text"),
    ],
    ids=itertools.count(),
)
def test_key_stores_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(KeyFileMalformed, match=message):
        keystore_v3.decrypt(text, b"pw")


def test_an_altered_key_store_does_not_give_another_key() -> None:
    store = json.loads(altered())
    flipped = bytes([bytes.fromhex(store["crypto"]["ciphertext"])[0] ^ 1])
    text = flipped.hex() + store["crypto"]["ciphertext"][2:]
    with pytest.raises(WrongPassphrase):
        keystore_v3.decrypt(altered(crypto__ciphertext=text), b"pw")


def test_a_passphrase_comes_from_file_then_variable_then_person(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(b"from file\r\nsecond line\n")
    file.chmod(0o600)
    environ = {"EIGEN_PASSPHRASE": "from variable"}
    assert passphrase_source(file, environ, lambda: "typed")() == b"from file"
    assert passphrase_source(None, environ, lambda: "typed")() == b"from variable"
    assert passphrase_source(None, {}, lambda: "typed")() == b"typed"
    with pytest.raises(PassphraseMissing, match=r"keys\.passphrase_file"):
        passphrase_source(None, {})()


def test_a_person_is_asked_once_and_again_after_an_empty_answer() -> None:
    answers = iter(["", "typed", "never"])
    ask = passphrase_source(None, {}, lambda: next(answers))
    with pytest.raises(PassphraseMissing, match="what was typed"):
        ask()
    assert (ask(), ask()) == (b"typed", b"typed")


def test_passphrase_files_are_private_too_and_not_empty(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(b"\n")
    file.chmod(0o644)
    with pytest.raises(KeyFilePermissions, match="chmod 600"):
        passphrase_source(file, {})()
    file.chmod(0o600)
    with pytest.raises(PassphraseMissing, match="is empty"):
        passphrase_source(file, {})()
    with pytest.raises(PassphraseMissing, match="EIGEN_PASSPHRASE"):
        passphrase_source(None, {"EIGEN_PASSPHRASE": ""})()
