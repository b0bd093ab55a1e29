"""The command line: quick, lazy, one line for an error, and an exit code that scripts can read."""

import io
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import trio

from eigen.chain.port import ChainUnreachable, TransactionReverted, WrongChain
from eigen.config.addresses import parse_address
from eigen.config.errors import BadValue, ConfigError
from eigen.config.schema import OPTIONS
from eigen.crypto.errors import KeyFileMissing
from eigen.crypto.keystore import load_identity
from eigen.crypto.sealing_key import load_sealing_key
from eigen.node import cli
from eigen.node.exit_codes import MEANINGS, ExitCode, UserError, table
from eigen.node.libp2p.errors import ListenError
from eigen.node.lock import HomeLock, HomeLocked, running_pid

NETWORK = """\
# the comments of a network file are kept
name = "demo"
chain_id = 31337
rpc_urls = ["http://127.0.0.1:8545"]

[contracts]
token = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
governor = "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"
timelock = "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB"
ledger = "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb"
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def eigen(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Runs a command in this process with a home of its own: exit code, stdout, stderr."""
    for name in [name for name in os.environ if name.startswith("EIGEN_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["--home", str(home), *arguments])
        return (code, *capsys.readouterr())

    return run


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(cli.CommandTable, "get_command", lambda *_: command)


# help and the table of commands ----------------------------------------------------------------


def test_help_lists_every_command_and_imports_none() -> None:
    script = (
        "import sys, eigen.node.cli as cli; code = cli.main(['--help']); "
        "heavy = {'eigen.config', 'eigen.crypto', 'torch', 'trio', 'libp2p', 'web3', 'httpx', "
        "'Crypto', 'cryptography', 'multiaddr', 'msgpack'} & set(sys.modules); "
        "commands = [name for name in sys.modules if name.startswith('eigen.node.commands.')]; "
        "sys.exit(f'imported {heavy} {commands}' if heavy or commands else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, line in cli.COMMANDS.items():
        assert f"  {name:9}  {line}\n" in done.stdout


def test_the_table_describes_commands_as_they_describe_themselves() -> None:
    for name in ("init", "join", "config", "paths", "network"):
        command = cli.CommandTable().get_command(click.Context(cli.cli), name)
        assert command.get_short_help_str(limit=80).startswith(cli.COMMANDS[name].rstrip("."))


def test_a_mistyped_command_says_which_was_meant(eigen: Run) -> None:
    code, out, err = eigen("statsu")
    assert (code, out) == (ExitCode.USAGE, "")
    assert "there is no command statsu; did you mean status?" in err
    assert "see: eigen --help" in eigen("xyzzy")[2]


def test_the_version_is_the_packages(eigen: Run) -> None:
    assert eigen("--version")[1].startswith("eigen ")


def test_no_command_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == ExitCode.USAGE
    assert "Commands:" in capsys.readouterr().err


# errors and exit codes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("port 4001 is taken", ExitCode.PORT_IN_USE), 6),
        (ConfigError("x"), 3),
        (BadValue("x", "p2p.listen"), 3),
        (KeyFileMissing("x"), 4),
        (WrongChain("x"), 7),
        (ChainUnreachable("x"), 8),
        (TransactionReverted("x"), 1),
        (ListenError("/ip4/127.0.0.1/tcp/4001", "taken"), 6),
        (trio.TooSlowError("x"), 10),
        (ExceptionGroup("g", [ExceptionGroup("h", [ValueError("a"), ChainUnreachable("x")])]), 8),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_that_a_user_can_mend_are_one_line_and_a_code(
    eigen: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    fail_with(monkeypatch, error)
    ended, out, err = eigen("up")
    assert (ended, out) == (code, "")
    assert err.startswith("eigen: ")
    assert err.count("\n") == 1
    assert "internal error" not in err


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), click.Abort(), BaseExceptionGroup("g", [KeyboardInterrupt()])],
    ids=lambda error: type(error).__name__,
)
def test_an_interruption_is_no_error(
    eigen: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    fail_with(monkeypatch, error)
    code, out, err = eigen("up")
    assert (code, out, err.strip()) == (130, "", "eigen: interrupted")


def test_an_unexpected_error_is_one_line_and_a_traceback_in_the_log(
    eigen: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, RuntimeError("two\nlines"))
    code, _, err = eigen("up")
    assert code == ExitCode.FAILED
    assert err == (
        "eigen: internal error: RuntimeError: two lines; run it again with -v for details\n"
    )
    home.mkdir()
    code, _, err = eigen("up")
    assert err.endswith(f"two lines; details are in {home / 'node.log'}\n")
    assert "Traceback" in (home / "node.log").read_text()
    code, _, err = eigen("-v", "up")
    assert "Traceback" in err


def test_every_code_is_explained_in_the_docs() -> None:
    assert set(MEANINGS) == set(ExitCode)
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert table() in page.read_text()


def test_a_reader_that_closes_early_is_no_error(home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "eigen.node.cli", "--home", str(home), "config", "show"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    with process:
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


# init ------------------------------------------------------------------------------------------


def test_init_makes_a_home_once_and_changes_nothing_later(eigen: Run, home: Path) -> None:
    code, out, _ = eigen("init", "--json")
    first = json.loads(out)
    assert code == 0
    assert len(first["made"]) == 3
    identity = load_identity(home / "keys" / "node.key")
    assert parse_address(first["address"]) == identity.address
    assert len(load_sealing_key(home / "keys" / "sealing.key").public_bytes) == 1216
    assert home.stat().st_mode & 0o777 == 0o700
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}

    code, out, _ = eigen("init", "--json")
    again = json.loads(out)
    assert code == 0
    assert (again["made"], again["address"]) == ([], first["address"])
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_init_makes_only_what_is_missing(eigen: Run, home: Path) -> None:
    address = json.loads(eigen("init", "--json")[1])["address"]
    (home / "config.toml").unlink()
    (home / "keys" / "sealing.key").unlink()
    again = json.loads(eigen("init", "--json")[1])
    assert again["address"] == address
    assert again["made"] == [str(home / "keys" / "sealing.key"), str(home / "config.toml")]


def test_init_keeps_the_settings_that_it_was_given(eigen: Run, home: Path) -> None:
    payout = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
    assert eigen("--set", "p2p.listen=/ip4/127.0.0.1/tcp/0", "init", "--payout", payout)[0] == 0
    written = tomllib.loads((home / "config.toml").read_text())
    assert written["p2p"] == {"listen": ["/ip4/127.0.0.1/tcp/0"]}
    assert written["payout"] == {"address": payout}
    assert (home / "config.toml").stat().st_mode & 0o777 == 0o600
    _, _, err = eigen("--set", "p2p.mdns=false", "init")
    assert "is kept: the settings given now are not in it" in err


def test_init_encrypts_keys_when_asked(
    eigen: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # nobody to ask
    code, _, err = eigen("init", "--encrypt")
    assert code == ExitCode.KEY_FILE
    assert "EIGEN_PASSPHRASE" in err
    assert not home.exists()

    monkeypatch.setenv("EIGEN_PASSPHRASE", "open sesame")
    code, out, _ = eigen("init", "--encrypt", "--json")
    assert code == 0
    identity = load_identity(home / "keys" / "node.key", lambda: b"open sesame")
    assert parse_address(json.loads(out)["address"]) == identity.address
    assert tomllib.loads((home / "config.toml").read_text())["keys"] == {"encrypted": True}


def test_init_refuses_bad_settings_before_it_makes_anything(eigen: Run, home: Path) -> None:
    code, _, err = eigen("init", "--payout", "0x12")
    assert code == ExitCode.CONFIGURATION
    assert "payout.address" in err
    assert not home.exists()


def test_init_refuses_keys_that_others_can_read(eigen: Run, home: Path) -> None:
    eigen("init")
    (home / "keys" / "node.key").chmod(0o644)
    code, _, err = eigen("init")
    assert code == ExitCode.KEY_FILE
    assert f"chmod 600 {home / 'keys' / 'node.key'}" in err


# join, network, config, paths ------------------------------------------------------------------


def test_join_keeps_a_checked_copy(eigen: Run, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "demo.toml"
    file.write_text(NETWORK)
    code, out, _ = eigen("join", str(file))
    assert code == 0
    assert "joined demo (k7c5xdgrnw5la3ox) on chain 31337" in out
    assert (home / "network.toml").read_text() == NETWORK

    code, out, _ = eigen("network", "show", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["network_id"] == "k7c5xdgrnw5la3ox"
    assert shown["parameters"]["heartbeat_s"] == 10.0
    code, out, _ = eigen("network", "show")
    assert out.startswith("# network id: k7c5xdgrnw5la3ox\n")
    assert tomllib.loads(out)["contracts"] == tomllib.loads(NETWORK)["contracts"]


def test_join_takes_a_newer_file_of_the_same_network_alone(
    eigen: Run, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "demo.toml"
    file.write_text(NETWORK)
    eigen("join", str(file))
    newer = NETWORK.replace("8545", "9545")
    file.write_text(newer)
    assert eigen("join", str(file))[0] == 0
    assert (home / "network.toml").read_text() == newer

    file.write_text(NETWORK.replace('"demo"', '"other"'))
    code, _, err = eigen("join", str(file))
    assert code == ExitCode.WRONG_NETWORK
    assert "this home belongs to the network demo (k7c5xdgrnw5la3ox), not to other" in err
    assert (home / "network.toml").read_text() == newer


def test_join_refuses_what_is_no_network_file(eigen: Run, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "demo.toml"
    file.write_text(NETWORK.replace("token", "tocken"))
    code, _, err = eigen("join", str(file))
    assert code == ExitCode.CONFIGURATION
    assert err.startswith(f"eigen: {file}:7: contracts.tocken: no such key; did you mean token?")
    assert eigen("join", str(tmp_path / "absent"))[0] == ExitCode.CONFIGURATION
    assert not (home / "network.toml").exists()


def test_a_home_without_a_network_says_how_to_join_one(eigen: Run) -> None:
    code, _, err = eigen("network", "show")
    assert code == ExitCode.CONFIGURATION
    assert "run: eigen join FILE" in err


def test_config_show_is_toml_with_origins(
    eigen: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[training]\nthreads = 2\n")
    monkeypatch.setenv("EIGEN_LOG_LEVEL", "debug")
    code, out, _ = eigen("--set", "p2p.mdns=no", "config", "show", "--origin")
    assert code == 0
    assert f"threads = 2  # {home / 'config.toml'}:2\n" in out
    assert 'level = "debug"  # environment EIGEN_LOG_LEVEL\n' in out
    assert "mdns = false  # --set p2p.mdns\n" in out
    assert "# address  # default\n" in out
    assert tomllib.loads(out)["training"]["threads"] == 2

    shown = json.loads(eigen("config", "show", "--json", "--origin")[1])
    assert shown["training"]["threads"] == {"value": 2, "origin": f"{home / 'config.toml'}:2"}
    assert sum(map(len, shown.values())) == len(OPTIONS)
    assert json.loads(eigen("config", "show", "--json")[1])["payout"] == {"address": None}


@pytest.mark.parametrize("setting", ["p2p.mdns", "=", "p2p.lisen=x", "log.level=loud"])
def test_a_bad_setting_on_the_command_line_is_named(eigen: Run, setting: str) -> None:
    code, _, err = eigen("--set", setting, "config", "show")
    assert code in (ExitCode.USAGE, ExitCode.CONFIGURATION)
    assert setting.split("=", maxsplit=1)[0] in err


def test_paths_follow_the_home(
    eigen: Run, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = json.loads(eigen("paths", "--json")[1])
    assert shown["home"] == str(home)
    assert all(path.startswith(str(home)) for path in shown.values())
    monkeypatch.setenv("EIGEN_HOME", "/srv/node")
    assert cli.main(["paths"]) == 0
    assert "lock_file         /srv/node/node.lock\n" in capsys.readouterr().out


# the home's lock -------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from eigen.node.libp2p.errors import ListenError
from eigen.node.lock import HomeLock
with HomeLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the home."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "node.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_node_is_told_who_runs(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    path = tmp_path / "node.lock"
    assert running_pid(path) == holder.pid
    with pytest.raises(HomeLocked, match=rf"process {holder.pid}\).*eigen stop") as caught:
        HomeLock(path).__enter__()
    assert caught.value.exit_code == ExitCode.HOME_LOCKED
    assert caught.value.pid == holder.pid


def test_a_killed_node_leaves_no_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    path = tmp_path / "node.lock"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert path.read_text() == f"{holder.pid}\n"
    assert running_pid(path) is None
    with HomeLock(path):
        assert running_pid(path) == os.getpid()


def test_a_lock_ends_with_its_block_and_ignores_old_content(tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    assert running_pid(path) is None
    path.write_text("999999999 and more than a number")
    with HomeLock(path):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(HomeLocked):
            HomeLock(path).__enter__()
    assert running_pid(path) is None
    with HomeLock(path):
        pass
