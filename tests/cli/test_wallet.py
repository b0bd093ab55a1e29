"""`eigen wallet`: keys in and out as wallets read them, and what the account holds."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from eth_account import Account

from eigen.chain.deploy import DaoSpec, deploy_dao
from eigen.chain.devnet.anvil import AnvilConfig, run_anvil
from eigen.chain.outbox import OutboxSettings
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.addresses import format_address
from eigen.config.network import ContractAddresses, NetworkFile, dump_network
from eigen.crypto.identity import Identity
from eigen.crypto.keystore import load_identity
from eigen.node import cli
from eigen.node.exit_codes import ExitCode

PASSWORD = "correct horse"
TOKEN = 10**18
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def eigen(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in [name for name in os.environ if name.startswith("EIGEN_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["--home", str(home), *map(str, arguments)])
        return (code, *capsys.readouterr())

    return run


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    return private(tmp_path / "password", PASSWORD + "\n")


def wallet_file(tmp_path: Path, identity: Identity) -> Path:
    """A key store as another wallet writes it, at a low cost."""
    store = Account.encrypt(identity.secret, PASSWORD, kdf="pbkdf2", iterations=10)
    return private(tmp_path / "wallet.json", json.dumps(store))


def test_a_wallets_key_becomes_the_nodes(
    eigen: Run, home: Path, tmp_path: Path, password_file: Path
) -> None:
    identity = Identity.generate()
    file = wallet_file(tmp_path, identity)
    code, out, err = eigen("wallet", "import", file, "--password-file", password_file)
    assert code == 0, err
    assert format_address(identity.address) in out
    key = home / "keys" / "node.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert eigen("init")[0] == 0
    assert load_identity(key).address == identity.address
    code, out, _ = eigen("wallet", "show", "--json")
    assert json.loads(out) == {"address": format_address(identity.address)}

    code, _, err = eigen("wallet", "import", file, "--password-file", password_file)
    assert code == ExitCode.KEY_FILE
    assert "never overwritten" in err


def test_the_key_goes_out_as_other_wallets_read_it(
    eigen: Run, home: Path, tmp_path: Path, password_file: Path
) -> None:
    assert eigen("init")[0] == 0
    file = tmp_path / "out.json"
    code, out, err = eigen("wallet", "export", file, "--password-file", password_file)
    assert code == 0, err
    secret = load_identity(home / "keys" / "node.key").secret
    assert bytes(Account.decrypt(json.loads(file.read_text()), PASSWORD)) == secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret.hex() not in out
    code, _, err = eigen("wallet", "export", file, "--password-file", password_file)
    assert code == ExitCode.KEY_FILE
    assert "never overwritten" in err


def test_no_password_no_key(eigen: Run, home: Path, tmp_path: Path) -> None:
    file = wallet_file(tmp_path, Identity.generate())
    code, _, err = eigen("wallet", "import", file)  # no terminal, no file
    assert code == ExitCode.USAGE
    assert "--password-file" in err
    wrong = private(tmp_path / "wrong", "battery staple\n")
    code, _, err = eigen("wallet", "import", file, "--password-file", wrong)
    assert code == ExitCode.KEY_FILE
    assert "passphrase is wrong" in err
    assert not (home / "keys" / "node.key").exists()


def test_an_open_password_file_is_refused(eigen: Run, tmp_path: Path, password_file: Path) -> None:
    password_file.chmod(0o644)
    file = wallet_file(tmp_path, Identity.generate())
    code, _, err = eigen("wallet", "import", file, "--password-file", password_file)
    assert code == ExitCode.KEY_FILE
    assert "chmod 600" in err


def test_a_mistyped_payout_address_is_told_before_anything_is_asked(eigen: Run) -> None:
    code, _, err = eigen("wallet", "payout", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD")
    assert code == ExitCode.USAGE
    assert "checksum" in err


def test_what_an_account_holds_is_shown_without_a_node(
    eigen: Run, home: Path, tmp_path: Path
) -> None:
    assert eigen("init")[0] == 0
    me = load_identity(home / "keys" / "node.key").address

    async def main() -> None:
        config = AnvilConfig(tmp_path / "anvil.log", block_time_s=None, accounts=1)
        async with trio.open_nursery() as nursery:
            chain = await nursery.start(run_anvil, config)
            async with TrioHTTPProvider([chain.url], chain_id=chain.chain_id) as provider:
                spec = DaoSpec(
                    token_name="T",
                    token_symbol="T",
                    founders=[(me, 3 * TOKEN // 2)],
                    validators=[me],
                    quorum=1,
                    voting_delay_s=0,
                    voting_period_s=10,
                    timelock_delay_s=1,
                    proposal_threshold=TOKEN,
                    quorum_percent=10,
                )
                secret = chain.accounts[0].secret
                found = await deploy_dao(
                    provider, secret, spec, settings=OutboxSettings(poll_s=0.02)
                )
            network = NetworkFile(
                name="testnet",
                chain_id=chain.chain_id,
                rpc_urls=(chain.url,),
                contracts=ContractAddresses(
                    found.token, found.governor, found.timelock, found.ledger
                ),
            )
            (home / "network.toml").write_text(dump_network(network))
            code, out, err = await trio.to_thread.run_sync(eigen, "wallet", "show", "--json")
            assert code == 0, err
            assert json.loads(out) == {
                "address": format_address(me),
                "chain": 31337,
                "gas_money": "0",
                "tokens": "1.5",
                "votes": "1.5",
                "delegate": format_address(me),
                "payout": format_address(me),
            }
            nobody = ContractAddresses(*(bytes([i]) * 20 for i in (1, 2, 3, 4)))  # type: ignore[arg-type]
            wrong = NetworkFile(name="x", chain_id=31337, rpc_urls=(chain.url,), contracts=nobody)
            (home / "network.toml").write_text(dump_network(wrong))
            code, _, err = await trio.to_thread.run_sync(eigen, "wallet", "show")
            assert code == ExitCode.WRONG_NETWORK
            assert "there is no contract" in err
            nursery.cancel_scope.cancel()

    trio.run(main)
