"""A devnet on the real Anvil: it starts, keeps its promises, and ends with whoever started it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from eigen.chain.devnet.anvil import AnvilConfig, AnvilProcess, find_anvil, rotate_log, run_anvil
from eigen.chain.devnet.errors import DevnetFailed, DevnetUnavailable
from eigen.chain.devnet.npm import find_npm
from eigen.chain.devnet.snapshot import live_path, newest_state
from eigen.crypto.identity import Identity

TEST_MNEMONIC_ACCOUNT = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"
"""First account of the mnemonic `test test … junk`, which Anvil funds unless told otherwise."""


@pytest.fixture(scope="session")
def binary() -> Path:
    try:
        return trio.run(find_anvil)
    except DevnetUnavailable as error:
        if find_npm() is None:
            pytest.skip(str(error))
        raise


@pytest.fixture
def config(binary: Path, tmp_path: Path) -> AnvilConfig:
    return AnvilConfig(log_path=tmp_path / "anvil.log", binary=binary, block_time_s=None)


@asynccontextmanager
async def running(config: AnvilConfig) -> AsyncIterator[AnvilProcess]:
    async with trio.open_nursery() as nursery:
        devnet: AnvilProcess = await nursery.start(run_anvil, config)
        yield devnet
        nursery.cancel_scope.cancel()


async def ask(devnet: AnvilProcess, method: str, *params: Any) -> Any:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    async with httpx.AsyncClient(trust_env=False) as client:
        reply = (await client.post(devnet.url, json=request)).json()
    assert "error" not in reply, reply
    return reply["result"]


async def block_number(devnet: AnvilProcess) -> int:
    return int(await ask(devnet, "eth_blockNumber"), 16)


async def balance_wei(devnet: AnvilProcess, address: bytes) -> int:
    return int(await ask(devnet, "eth_getBalance", "0x" + address.hex(), "latest"), 16)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something that no event tells of; fails the test after ten seconds."""
    with trio.fail_after(10):
        while not await holds():  # noqa: ASYNC110
            await trio.sleep(0.02)


def of_process(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


# ---------------------------------------------------------------- while it runs


async def test_it_answers_as_configured(config: AnvilConfig) -> None:
    member = Identity.generate()
    asked = replace(config, chain_id=4242, accounts=2, fund=[member.address], balance_wei=7)
    async with running(asked) as devnet:
        assert devnet.chain_id == 4242
        assert int(await ask(devnet, "eth_chainId"), 16) == 4242
        assert await ask(devnet, "web3_clientVersion") == f"anvil/v{devnet.version}"
        assert len({account.address for account in devnet.accounts}) == 2
        for account in (*devnet.accounts, member):
            assert await balance_wei(devnet, account.address) == 7


async def test_it_is_no_open_door(config: AnvilConfig) -> None:
    async with running(replace(config, accounts=1)) as devnet:
        assert devnet.url.startswith("http://127.0.0.1:")
        assert await ask(devnet, "eth_accounts") == []
        known = bytes.fromhex(TEST_MNEMONIC_ACCOUNT[2:])
        assert await balance_wei(devnet, known) == 0
        async with httpx.AsyncClient(trust_env=False) as client:
            preflight = {"Origin": "http://example.org", "Access-Control-Request-Method": "POST"}
            reply = await client.options(devnet.url, headers=preflight)
        assert "access-control-allow-origin" not in reply.headers


async def test_no_secret_leaves_this_process(config: AnvilConfig) -> None:
    async with running(replace(config, accounts=1)) as devnet:
        secret = devnet.accounts[0].secret
        seen = [of_process(devnet.pid, "cmdline"), of_process(devnet.pid, "environ")]
        seen += [config.log_path.read_bytes(), repr(devnet).encode()]
    for text in seen:
        assert secret not in text
        assert secret.hex().encode() not in text.lower()


async def test_its_environment_is_not_ours(
    config: AnvilConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EIGEN_PASSPHRASE", "correct horse")
    monkeypatch.setenv("ANVIL_IP_ADDR", "0.0.0.0")  # must not be obeyed
    async with running(config) as devnet:
        environment = of_process(devnet.pid, "environ")
        assert "127.0.0.1" in devnet.url
    assert b"correct horse" not in environment
    assert b"ANVIL_IP_ADDR" not in environment


async def test_blocks_come_at_fractions_of_a_second(config: AnvilConfig) -> None:
    async with running(replace(config, block_time_s=0.02)) as devnet:

        async def fifth_block() -> bool:
            return await block_number(devnet) >= 5

        await until(fifth_block)


async def test_without_a_block_time_blocks_come_on_demand(config: AnvilConfig) -> None:
    async with running(config) as devnet:
        assert await block_number(devnet) == 0
        await ask(devnet, "evm_mine")
        assert await block_number(devnet) == 1


async def test_old_states_are_kept_only_on_request(config: AnvilConfig) -> None:
    nobody = "0x" + "11" * 20
    for keep, answers in ((True, True), (False, False)):
        async with running(replace(config, keep_history=keep)) as devnet:
            await ask(devnet, "anvil_mine", "0x40")
            request = {"jsonrpc": "2.0", "id": 1, "method": "eth_getBalance"}
            async with httpx.AsyncClient(trust_env=False) as client:
                body = request | {"params": [nobody, "0x1"]}
                reply = (await client.post(devnet.url, json=body)).json()
        assert ("result" in reply) == answers


async def test_two_devnets_run_side_by_side(config: AnvilConfig, tmp_path: Path) -> None:
    other = replace(config, log_path=tmp_path / "other.log", chain_id=2)
    async with running(config) as one, running(other) as two:
        assert one.url != two.url
        assert int(await ask(two, "eth_chainId"), 16) == 2


# ---------------------------------------------------------------- how it ends


async def test_a_cancel_ends_it(config: AnvilConfig) -> None:
    async with running(config) as devnet:
        assert is_alive(devnet.pid)
    assert not is_alive(devnet.pid)


async def test_its_own_end_is_an_error(config: AnvilConfig) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(DevnetFailed, match="status -9")):
        async with running(config) as devnet:
            os.kill(devnet.pid, signal.SIGKILL)
            await trio.sleep_forever()


PARENT = """
import sys, trio
from pathlib import Path
from eigen.chain.devnet.anvil import AnvilConfig, run_anvil

async def main():
    folder = Path(sys.argv[2])
    config = AnvilConfig(
        log_path=folder / "anvil.log", state_path=folder / "state", binary=Path(sys.argv[1])
    )
    async with trio.open_nursery() as nursery:
        devnet = await nursery.start(run_anvil, config)
        print(devnet.pid, flush=True)

trio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
async def test_it_dies_with_its_parent_and_saves_its_state(binary: Path, tmp_path: Path) -> None:
    parent = await trio.lowlevel.open_process(
        [sys.executable, "-c", PARENT, str(binary), str(tmp_path)], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.receive_some())
    assert is_alive(pid)
    parent.kill()
    await parent.wait()
    await parent.stdout.aclose()

    async def ended() -> bool:
        return not is_alive(pid)

    await until(ended)
    assert "accounts" in json.loads(live_path(tmp_path / "state").read_bytes())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
async def test_it_outlives_the_worker_threads_of_its_parent(config: AnvilConfig) -> None:
    """Linux counts a thread's end as the parent's; Trio drops idle threads after ten seconds."""
    async with running(config) as devnet:
        await trio.sleep(15)
        assert is_alive(devnet.pid)


# ---------------------------------------------------------------- what it keeps


async def test_a_saved_chain_goes_on(config: AnvilConfig, tmp_path: Path) -> None:
    saved = replace(config, state_path=tmp_path / "deep" / "state.json")
    account = Identity.generate().address
    async with running(replace(saved, fund=[account], balance_wei=5)) as devnet:
        await ask(devnet, "anvil_mine", "0x3")
    async with running(saved) as devnet:
        assert await balance_wei(devnet, account) == 5
        assert await block_number(devnet) == 3
        await ask(devnet, "evm_mine")
        block = await ask(devnet, "eth_getBlockByNumber", "latest", False)
        assert abs(int(block["timestamp"], 16) - time.time()) < 60, "its clock is not left behind"
    async with running(saved) as devnet:
        assert await block_number(devnet) == 4


def test_a_half_written_state_gives_way_to_the_one_before(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    assert newest_state(state) is None
    live_path(state).write_text('{"block": 1}')
    assert newest_state(state) == state
    live_path(state).write_text('{"block": 2')
    assert newest_state(state) == state
    assert json.loads(state.read_text()) == {"block": 1}
    assert not live_path(state).exists(), "it must not be tried again"
    live_path(state).write_text('{"block": 3}')
    assert newest_state(state) == state
    assert json.loads(state.read_text()) == {"block": 3}


def test_a_log_stays_bounded_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "anvil.log"
    with path.open("ab") as log:
        log.write(b"a" * 100)
        log.flush()
        rotate_log(path, 100)
        assert path.stat().st_size == 100, "not yet too large"
        log.write(b"b")
        log.flush()
        rotate_log(path, 100)
        log.write(b"c")
    assert path.read_bytes() == b"c"
    assert (tmp_path / "anvil.log.1").read_bytes() == b"a" * 100 + b"b"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chain_id", 0),
        ("port", 65536),
        ("block_time_s", 0.0),
        ("block_time_s", float("nan")),
        ("accounts", -1),
        ("accounts", 257),
        ("balance_wei", -1),
        ("start_timeout_s", 0.0),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, field: str, value: Any) -> None:
    settings: dict[str, Any] = {"log_path": tmp_path / "anvil.log", field: value}
    with pytest.raises(ValueError, match=field):
        AnvilConfig(**settings)


async def test_a_taken_port_is_reported(config: AnvilConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DevnetFailed, match=r"(?is)in use.*anvil\.log"):
            await run_anvil(replace(config, port=port))


async def test_a_binary_that_never_answers_is_given_up(config: AnvilConfig, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    mute.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    mute.chmod(0o700)
    with pytest.raises(DevnetFailed, match=r"did not answer within 0\.5 s"):
        await run_anvil(replace(config, binary=mute, start_timeout_s=0.5))
    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_a_binary_that_is_none_is_refused(config: AnvilConfig, tmp_path: Path) -> None:
    with pytest.raises(DevnetUnavailable, match="binary"):
        await run_anvil(replace(config, binary=tmp_path / "absent"))
    text = tmp_path / "text"
    text.write_text("not a program")
    text.chmod(0o700)
    with pytest.raises(DevnetFailed, match="Exec format error"):
        await run_anvil(replace(config, binary=text))
