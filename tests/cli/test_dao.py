"""`eigen dao`: a file becomes a DAO on a real chain, and a network file that members join with."""

import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from eigen.chain.devnet.anvil import AnvilConfig, run_anvil
from eigen.chain.evm import EvmChain
from eigen.chain.outbox import OutboxSettings
from eigen.chain.port import NoMembership, Standing, TransactionReverted
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.addresses import format_address
from eigen.config.network import load_network
from eigen.crypto.identity import Identity
from eigen.crypto.keystore import load_identity
from eigen.node import cli
from eigen.node.dao_file import load_dao_file
from eigen.node.exit_codes import ExitCode
from eigen.node.member_file import MemberFileError
from eigen.node.networks import contracts_of
from eigen.protocol.types import Address, Digest

pytestmark = pytest.mark.timeout(120)

ONE = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
GOOD = f"""\
name = "ada-models"
chain_id = 31337
rpc_urls = ["http://127.0.0.1:8545"]
token_name = "Ada Models"
token_symbol = "ADA"
validators = ["{ONE}"]
quorum = 1

[founders]
"{ONE}" = 1000.5

[votes]
delay_s = 0
period_s = 60
timelock_s = 1

[ledger]
challenge_window_s = 60
guardian = "{ONE}"

[members]
open = false
owner = "{ONE}"
"""


def test_a_good_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "dao.toml"
    path.write_text(GOOD)
    read = load_dao_file(path)
    assert read.spec.founders == [(read.spec.owner, 10005 * 10**17)]
    assert read.spec.unbonding_delay_s == read.spec.challenge_window_s == 60
    assert read.foundry is None
    assert not read.spec.open_membership


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('name = "ada-models"', 'name = "Ada Models"', "'Ada Models' is no network name"),
        ('name = "ada-models"\n', "", "name is missing"),
        ("31337", "0", "chain_id"),
        ("http://127.0.0.1:8545", "ftp://x", "rpc_urls"),
        ("quorum = 1", "quorum = 2", "quorum: 2 of 1 validators"),
        ("Aed", "aed", "checksum"),
        ("1000.5", "-1", "not a negative number"),
        ("1000.5", '"many"', "a number of tokens"),
        ("1000.5", "0", "founders: every amount must be positive"),
        ("period_s = 60", "period_s = 0", "voting_period_s: give 1 to"),
        ("delay_s = 0", "delay = 0", "votes.delay: no such key; there are delay_s"),
        ("window_s = 60", "window_s = -1", "challenge_window_s"),
        ("open = false", 'open = "no"', "members.open: text, not true or false"),
        ("[members]", "[member]", "member: no such key"),
    ],
    ids=lambda value: value[:20].strip(),
)
def test_a_mistake_is_named_before_anything_is_paid(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    path = tmp_path / "dao.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(MemberFileError, match=told) as caught:
        load_dao_file(path)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert str(path) in str(caught.value)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def eigen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    for name in [name for name in os.environ if name.startswith("EIGEN_")]:
        monkeypatch.delenv(name)

    def run(home: str, *arguments: object) -> Done:
        capsys.readouterr()
        code = cli.main(["--home", str(tmp_path / home), *map(str, arguments)])
        return Done(code, *capsys.readouterr())

    return run


async def test_a_file_becomes_a_dao_with_members(eigen: Run, tmp_path: Path) -> None:
    assert cli.main(["--home", str(tmp_path / "founder"), "init"]) == 0
    founder = load_identity(tmp_path / "founder" / "keys" / "node.key")
    file, out = tmp_path / "dao.toml", tmp_path / "network.toml"
    config = AnvilConfig(tmp_path / "anvil.log", block_time_s=None, accounts=1)
    async with trio.open_nursery() as nursery:
        devnet = await nursery.start(run_anvil, config)
        text = GOOD.replace("http://127.0.0.1:8545", devnet.url)
        file.write_text(text.replace(ONE, format_address(founder.address)))

        async def create(*options: object) -> Done:
            arguments = ("founder", "dao", "create", file, "--out", out, *options)
            return await trio.to_thread.run_sync(lambda: eigen(*arguments))

        poor = await create()
        assert poor.returncode == ExitCode.FAILED
        assert "holds 0: send " in poor.stderr
        assert f"to {format_address(founder.address)}" in poor.stderr
        assert not out.exists()

        async with TrioHTTPProvider([devnet.url], chain_id=31337) as control:
            rich = [format_address(founder.address), hex(10**18)]
            await control.make_request("anvil_setBalance", rich)  # type: ignore[arg-type]
        done = await create()
        assert done.returncode == 0, done.stderr
        factory, market = (line for line in done.stderr.splitlines() if " = " in line)
        network = load_network(out)
        assert None not in tomllib.loads(out.read_text())["contracts"].values()
        assert network.start_block > 0
        assert network.contracts.market is not None
        assert format_address(network.contracts.market) in market

        # the same file again founds nothing anew; with the factory named, another DAO costs little
        assert (await create()).returncode == ExitCode.CONFIGURATION
        out.unlink()
        assert (await create()).returncode == 0
        assert load_network(out) == network
        out.unlink()
        file.write_text(
            f"{factory}\n{market}\n" + file.read_text().replace("ada-models", "ada-two")
        )
        assert (await create()).returncode == 0
        assert load_network(out).contracts != network.contracts

        await joins(network, devnet.url, founder)
        wrong = file.read_text().replace(factory, f"factory{market.removeprefix('market')}")
        file.write_text(wrong.replace("ada-two", "ada-three"))
        out.unlink()
        refused = await create()
        assert refused.returncode == ExitCode.FAILED
        assert "is not our DaoFactory" in refused.stderr
        nursery.cancel_scope.cancel()


async def joins(network: Any, url: str, founder: Identity) -> None:
    """A volunteer asks, and the owner answers; roles and rules are as the file said."""
    volunteer = Identity.generate()

    def view(of: Identity, contracts: Any = None) -> EvmChain:
        return EvmChain(
            TrioHTTPProvider([url], chain_id=31337),
            contracts or contracts_of(network),
            chain_id=31337,
            secret=of.secret,
            outbox_path=None,
            settings=OutboxSettings(poll_s=0.05),
        )

    async with view(founder) as owner, view(volunteer) as guest:
        await owner.info()
        assert await owner.balance(founder.address) == 10005 * 10**17
        rules = await owner.membership()
        assert (rules.owner, rules.is_open) == (founder.address, False)
        rich = [format_address(volunteer.address), hex(10**18)]
        await guest._rpc._provider.make_request("anvil_setBalance", rich)  # type: ignore[arg-type]
        await guest.request_membership(Digest(bytes(32)))
        assert await owner.standing(volunteer.address) is Standing.REQUESTED
        with pytest.raises(TransactionReverted, match="not allowed: caller"):
            await guest.admit(volunteer.address, True)
        await owner.admit(volunteer.address, True)
        assert await owner.standing(volunteer.address) is Standing.MEMBER
        with pytest.raises(TransactionReverted, match="wrong status"):
            await guest.request_membership(Digest(bytes(32)))
        await owner.admit(volunteer.address, False)
        assert await owner.standing(volunteer.address) is Standing.REFUSED
        await guest.request_membership(Digest(bytes(32)))  # a refused one may ask again
        assert await owner.standing(volunteer.address) is Standing.REQUESTED
        with trio.fail_after(10):
            while await owner._index.advance():
                pass
        assert await owner.standings() == {volunteer.address: Standing.REQUESTED}
    four = contracts_of(network)
    bare = type(four)(four.token, four.governor, four.timelock, four.ledger)
    async with view(founder, bare) as chain:
        with pytest.raises(NoMembership, match="whoever joins"):
            await chain.standing(Address(bytes(20)))
